//! Bodies that go out compressed (gzip, RFC 1952).

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;
use http::header::CONTENT_ENCODING;

use super::client::OutRequest;

/// Smaller bodies go out as they are.
const MIN_BODY: usize = 512;
/// Larger ones are compressed away from the threads that serve everybody.
const MAX_BODY_HERE: usize = 32 * 1024;

/// Compresses the body, unless it is encoded already or would not become smaller.
pub(super) async fn compress(request: &mut OutRequest) {
    if request.body.len() < MIN_BODY || request.headers.contains_key(CONTENT_ENCODING) {
        return;
    }
    let body = request.body.clone();
    let compressed = if body.len() <= MAX_BODY_HERE {
        gzip(&body)
    } else {
        tokio::task::spawn_blocking(move || gzip(&body)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    match compressed {
        Ok(compressed) if compressed.len() < request.body.len() => {
            request.body = Bytes::from(compressed);
            request.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "a body is sent uncompressed"),
    }
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
