//! AWS Signature Version 4, as API Gateway, Lambda's URLs, EventBridge or S3 ask for it. Pure.
//!
//! Signed are method, path, query, host, date, `content-type`, what begins with `x-amz-`, and the body's hash.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};

use super::super::client::OutRequest;
use super::super::fault::Fault;
use crate::clock::Timestamp;
use crate::secret::Secret;

/// Who signs for what.
#[derive(Clone, Debug)]
pub struct AwsConfig {
    /// The access key's id.
    pub access_key_id: String,
    /// The access key.
    pub secret_access_key: Secret,
    /// Goes with temporary keys.
    pub session_token: Option<Secret>,
    /// `eu-central-1`.
    pub region: String,
    /// The service's name in signatures: `execute-api`, `lambda`, `events`, `s3`.
    pub service: String,
}

/// Signs for one destination.
#[derive(Debug)]
pub struct Aws {
    credentials: Credentials,
    region: String,
    service: String,
}

impl Aws {
    /// Takes the keys as they are: only AWS can tell whether they are right.
    pub fn new(config: AwsConfig) -> Self {
        let AwsConfig { access_key_id, secret_access_key, session_token, region, service } = config;
        let session_token = session_token.map(|token| token.expose().to_owned());
        let credentials = Credentials::new(access_key_id, secret_access_key.expose(), session_token, None, "tidegate");
        Self { credentials, region, service }
    }

    /// Whether a header tells the service what to do, as `x-amz-acl` or `x-amz-target` does.
    pub(in crate::egress) fn orders(name: &HeaderName) -> bool {
        name.as_str().starts_with("x-amz-")
    }

    /// Signs a request that is complete but for this.
    pub(in crate::egress) fn sign(&self, request: &mut OutRequest, now: Timestamp) -> Result<(), Fault> {
        let fault = |error: &dyn std::fmt::Display| Fault::NotSigned(error.to_string());
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        if self.service == "s3" {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        let identity = self.credentials.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(UNIX_EPOCH + Duration::from_millis(now.0))
            .settings(settings)
            .build()
            .map_err(|error| fault(&error))?
            .into();
        let url = format!("{}{}", request.target.origin(), request.path_and_query);
        let signed = |name: &HeaderName| *name == CONTENT_TYPE || Self::orders(name);
        let headers = request.headers.iter().filter(|(name, _)| signed(name));
        let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signed = SignableRequest::new(request.method.as_str(), url, headers, SignableBody::Bytes(&request.body))
            .and_then(|signable| sign(signable, &params));
        let (instructions, _) = signed.map_err(|error| fault(&error))?.into_parts();
        for (name, value) in instructions.headers() {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| fault(&error))?;
            let mut value = HeaderValue::from_str(value).map_err(|error| fault(&error))?;
            value.set_sensitive(true);
            request.headers.insert(name, value);
        }
        Ok(())
    }
}
