//! New signing secrets for destinations, with the old ones still signing for a while.

use std::time::Duration;

use super::{Control, Error, Idempotency};
use crate::control::draft::Owned;
use crate::control::model::{Destinations, RetiringSpec};
use crate::egress::{MAX_SECRETS, SigningKey};
use crate::event::TenantId;
use crate::secret::Secret;

/// The longest that a replaced secret goes on signing.
pub const MAX_OVERLAP: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What a rotation asks for.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// How long the present secrets go on signing, at most [`MAX_OVERLAP`].
    pub overlap: Duration,
    /// Whether the new one is an Ed25519 key (v1a), and not one for HMAC (v1).
    pub is_ed25519: bool,
}

/// A secret that was just made.
#[derive(Debug)]
pub struct Rotated {
    /// Its text, which is not shown again.
    pub secret: Secret,
    /// What receivers verify with, if that is something else.
    pub public_key: Option<String>,
}

impl Control {
    /// Gives a destination a new signing secret. Those that it had sign for `overlap` more; those that have ended are taken out.
    pub async fn rotate(
        &self,
        owner: TenantId,
        reference: &str,
        rotation: Rotation,
        again: Option<&Idempotency>,
    ) -> Result<Rotated, Error> {
        if rotation.overlap > MAX_OVERLAP {
            return Err(Error::field("overlap", format!("must be at most {}", humantime::format_duration(MAX_OVERLAP))));
        }
        let seed = self.seed(again).await?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&seed.secret, &mut bytes).map_err(|error| Error::Unusable(error.to_string()))?;
        let secret = SigningKey::text(&bytes, rotation.is_ed25519);
        let public_key = SigningKey::parse(&secret).map_err(|error| Error::Unusable(error.to_string()))?.public();
        self.change(|draft| {
            let found = Destinations::table(draft.tenant(owner)?).find(reference).cloned();
            let entry = found.ok_or_else(|| Error::missing::<Destinations>(reference))?;
            let mut spec = entry.open(draft.with())?;
            let signing = &mut spec.signing;
            let is_made = signing.secrets.contains(&secret) || signing.retiring.iter().any(|one| one.secret == secret);
            if is_made {
                return Ok(entry);
            }
            let until = seed.now.after(rotation.overlap);
            signing.retiring.retain(|one| one.until > seed.now);
            if rotation.overlap > Duration::ZERO {
                signing.retiring.extend(signing.secrets.drain(..).map(|secret| RetiringSpec { secret, until }));
            }
            signing.secrets = vec![secret.clone()];
            if signing.retiring.len() >= MAX_SECRETS {
                let problem =
                    format!("{} secrets still sign, and {MAX_SECRETS} may: take some out, or rotate later", signing.retiring.len());
                return Err(Error::field("signing.retiring", problem));
            }
            draft.put::<Destinations>(owner, entry.id, spec)
        })
        .await?;
        Ok(Rotated { secret, public_key })
    }
}
