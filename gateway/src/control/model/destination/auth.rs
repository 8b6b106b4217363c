//! Credentials that go along with every request.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Faults, MAX_TEXT, header_name, header_value};
use crate::control::parts::{self, Origin};
use crate::egress::policy::AddressPolicy;
use crate::egress::{Aws, AwsConfig, ClientAuth, Credentials, OAuth, OAuthConfig, Speaks, TargetConfig, TlsOptions};
use crate::secret::Secret;

/// Credentials that are sent along with every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum DestinationAuth {
    /// None.
    #[default]
    None,
    /// `Authorization: Bearer ...`.
    Bearer {
        /// The token.
        #[schema(schema_with = crate::control::schema::secret)]
        token: Secret,
    },
    /// `Authorization: Basic ...` (RFC 7617).
    Basic {
        /// The user's name; no colon in it.
        username: String,
        /// The password.
        #[schema(schema_with = crate::control::schema::secret)]
        password: Secret,
    },
    /// A key in a header.
    ApiKey {
        /// The header.
        header: String,
        /// The key.
        #[schema(schema_with = crate::control::schema::secret)]
        value: Secret,
    },
    /// A bearer token that an authorization server gives for client credentials (RFC 6749, section 4.4). It is kept in memory until it is
    /// about to end, or until the destination answers 401 to it: then the delivery is tried again at once, with a new one.
    #[serde(rename = "oauth2")]
    OAuth2 {
        /// The token endpoint. Like the destination's URL it must lead to where the gateway may go.
        #[schema(example = "https://login.example.com/oauth2/token")]
        token_url: String,
        /// The client's id.
        client_id: String,
        /// The client's secret.
        #[schema(schema_with = crate::control::schema::secret)]
        client_secret: Secret,
        /// What is asked for: names with spaces between them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
        /// For whom the token is, where the server wants to know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audience: Option<String>,
        /// How the client says who it is. Default `basic`.
        #[serde(default)]
        client_auth: ClientAuthSpec,
    },
    /// AWS Signature Version 4.
    #[serde(rename = "aws_sigv4")]
    AwsSigV4 {
        /// The access key's id.
        #[schema(example = "AKIAIOSFODNN7EXAMPLE")]
        access_key_id: String,
        /// The access key.
        #[schema(schema_with = crate::control::schema::secret)]
        secret_access_key: Secret,
        /// Goes with temporary keys.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(schema_with = crate::control::schema::secret)]
        session_token: Option<Secret>,
        /// The region.
        #[schema(example = "eu-central-1")]
        region: String,
        /// The service's name in signatures: `execute-api`, `lambda`, `events`, `s3`.
        #[schema(example = "execute-api")]
        service: String,
    },
}

/// How a client says who it is (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthSpec {
    /// HTTP basic authentication.
    #[default]
    Basic,
    /// `client_id` and `client_secret` in the request's body.
    Body,
}

/// Where credentials are for.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) destination: &'a TargetConfig,
    pub(super) policy: &'a AddressPolicy,
    pub(super) origin: Origin,
}

/// What is made of them.
#[derive(Default)]
pub(super) struct Made {
    /// The same for every request.
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    /// Made for each.
    pub(super) credentials: Option<Arc<Credentials>>,
    /// Whether they come from where the gateway may not go any more.
    pub(super) held: bool,
}

impl DestinationAuth {
    pub(super) fn prepare(&self, place: Place<'_>, faults: &mut Faults) -> Made {
        let authorization = http::header::AUTHORIZATION;
        match self {
            Self::None => Made::default(),
            Self::Bearer { token } => {
                let value = header_value("auth.token", &format!("Bearer {}", token.expose()), faults);
                Made::header(Some(authorization), value)
            }
            Self::Basic { username, password } => {
                if username.contains(':') || username.len() > MAX_TEXT {
                    faults.add("auth.username", "has a colon or is too long");
                }
                let text = STANDARD.encode(format!("{username}:{}", password.expose()));
                Made::header(Some(authorization), header_value("auth.password", &format!("Basic {text}"), faults))
            }
            Self::ApiKey { header, value } => {
                let name = header_name("auth.header", header, faults);
                Made::header(name, header_value("auth.value", value.expose(), faults))
            }
            Self::OAuth2 { .. } => self.oauth(place, faults),
            Self::AwsSigV4 { access_key_id, secret_access_key, session_token, region, service } => {
                text("auth.access_key_id", access_key_id, faults);
                text("auth.secret_access_key", secret_access_key.expose(), faults);
                text("auth.region", region, faults);
                text("auth.service", service, faults);
                if let Some(token) = session_token {
                    text("auth.session_token", token.expose(), faults);
                }
                let config = AwsConfig {
                    access_key_id: access_key_id.clone(),
                    secret_access_key: secret_access_key.clone(),
                    session_token: session_token.clone(),
                    region: region.clone(),
                    service: service.clone(),
                };
                Made { credentials: Some(Arc::new(Credentials::Aws(Aws::new(config)))), ..Made::default() }
            }
        }
    }

    fn oauth(&self, place: Place<'_>, faults: &mut Faults) -> Made {
        let Self::OAuth2 { token_url, client_id, client_secret, scope, audience, client_auth } = self else {
            return Made::default();
        };
        text("auth.client_id", client_id, faults);
        text("auth.client_secret", client_secret.expose(), faults);
        for (field, given) in [("auth.scope", scope), ("auth.audience", audience)] {
            if let Some(given) = given {
                text(field, given, faults);
            }
        }
        let tls = TlsOptions { client: None, ..place.destination.tls.clone() };
        let config = TargetConfig { url: token_url.clone(), tls, speaks: Speaks::Http, ..place.destination.clone() };
        let endpoint = parts::target(&config, place.policy, place.origin);
        let Ok((endpoint, held)) = endpoint.map_err(|error| faults.add("auth.token_url", error.to_string())) else {
            return Made::default();
        };
        let oauth = OAuth::new(&OAuthConfig {
            endpoint: Arc::new(endpoint),
            client_id: client_id.clone(),
            client_secret: client_secret.clone(),
            scope: scope.clone(),
            audience: audience.clone(),
            client_auth: match client_auth {
                ClientAuthSpec::Basic => ClientAuth::Basic,
                ClientAuthSpec::Body => ClientAuth::Body,
            },
        });
        Made { credentials: Some(Arc::new(Credentials::OAuth(oauth))), held, ..Made::default() }
    }
}

impl Made {
    fn header(name: Option<HeaderName>, value: Option<HeaderValue>) -> Self {
        let header = name.zip(value).map(|(name, mut value)| {
            value.set_sensitive(true);
            (name, value)
        });
        Self { header, ..Self::default() }
    }
}

/// The text may be a secret, so it isn't shown.
pub(super) fn text(field: &str, text: &str, faults: &mut Faults) {
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        faults.add(field, format!("must be 1 to {MAX_TEXT} bytes without control characters"));
    }
}
