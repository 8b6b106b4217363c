//! The server's side of HTTP/2, frame by frame, since no library sends what is wrong (RFC 9113).

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags: of `DATA` and `HEADERS`, of `SETTINGS` and `PING`, of `HEADERS` and `CONTINUATION`.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Error codes.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// `:status: 200`, and `:status: 103` (HPACK: from the static table, and by the name of its entry 8).
pub(crate) const STATUS_200: &[u8] = &[0x88];
pub(crate) const STATUS_103: &[u8] = &[0x08, 3, b'1', b'0', b'3'];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as its bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GOAWAY`: what has a higher number than `last` was not looked at.
pub(crate) fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// `RST_STREAM`.
pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A connection.
pub(crate) struct Frames<T>(pub(crate) T);

impl<T: AsyncRead + AsyncWrite + Unpin> Frames<T> {
    /// After the client's preface, with these settings of the server's.
    pub(crate) async fn greet(mut stream: T, settings: &[(u16, u32)]) -> std::io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        assert_eq!(preface, PREFACE);
        let mut frames = Self(stream);
        let payload: Vec<u8> =
            settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        frames.write(&frame(SETTINGS, 0, 0, &payload)).await?;
        Ok(frames)
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Kind, flags, stream and payload of the next frame.
    async fn read(&mut self) -> std::io::Result<(u8, u8, u32)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await?;
        Ok((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
    }

    /// The stream of the next request, when all of it has come. Settings are acknowledged on the way.
    pub(crate) async fn request(&mut self) -> std::io::Result<u32> {
        loop {
            let (kind, flags, stream) = self.read().await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.write(&frame(SETTINGS, ACK, 0, &[])).await?,
                DATA | HEADERS if flags & END_STREAM != 0 => return Ok(stream),
                _ => {}
            }
        }
    }

    /// 200 with an empty body.
    pub(crate) async fn ok(&mut self, stream: u32) -> std::io::Result<()> {
        self.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)).await
    }

    /// Writes until the other side has closed, and reads beside it what comes back. Returns how much it took.
    pub(crate) async fn flood(self, piece: &[u8]) -> usize {
        let (mut read, mut write) = tokio::io::split(self.0);
        let mut sink = tokio::io::sink();
        let reading = tokio::io::copy(&mut read, &mut sink);
        let mut written = 0;
        let writing = async {
            while let Ok(count) = write.write(piece).await {
                written += count;
                if count == 0 || write.flush().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::join!(reading, writing);
        written
    }
}
