//! SCRAM (RFC 5802, RFC 7677): the password is shown to nobody, and the broker shows that it knows it too. Pure but for the nonce.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use super::super::super::fault::Fault;
use crate::secret::Secret;

/// Rounds that a server may ask for; it is the gateway that computes them.
const MAX_ROUNDS: u32 = 20_000;

/// How Kafka is told who the gateway is (SASL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Name and password as they are.
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
}

impl Mechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    fn algorithms(self) -> (hmac::Algorithm, &'static digest::Algorithm, pbkdf2::Algorithm) {
        match self {
            Self::ScramSha512 => (hmac::HMAC_SHA512, &digest::SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
            Self::Plain | Self::ScramSha256 => (hmac::HMAC_SHA256, &digest::SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
        }
    }
}

pub(super) struct Scram {
    mechanism: Mechanism,
    password: Secret,
    nonce: String,
    /// The first message without its head.
    bare: String,
}

/// What the broker has to say at last.
pub(super) struct Vouched(Vec<u8>);

pub(super) fn nonce() -> Result<String, Fault> {
    let mut random = [0; 18];
    SystemRandom::new().fill(&mut random).map_err(|_| Fault::NotSigned("there are no random numbers".to_owned()))?;
    Ok(STANDARD.encode(random))
}

impl Scram {
    pub(super) fn new(mechanism: Mechanism, user: &str, password: Secret, nonce: String) -> Self {
        let bare = format!("n={},r={nonce}", user.replace('=', "=3D").replace(',', "=2C"));
        Self { mechanism, password, nonce, bare }
    }

    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The answer to a challenge, and what follows if the broker knows the password. It takes up to some 20 ms of a processor: not for the threads
    /// that everything else runs on.
    pub(super) fn answer(&self, challenge: &[u8]) -> Result<(String, Vouched), Fault> {
        let malformed = || Fault::BadReply("a SCRAM challenge is malformed");
        let challenge = std::str::from_utf8(challenge).map_err(|_| malformed())?;
        let field = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name)).ok_or_else(malformed);
        let nonce = field("r=")?;
        let salt = STANDARD.decode(field("s=")?).map_err(|_| malformed())?;
        let rounds = field("i=")?.parse::<NonZeroU32>().map_err(|_| malformed())?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || rounds.get() > MAX_ROUNDS {
            return Err(malformed());
        }
        let (mac, hash, derive) = self.mechanism.algorithms();
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(derive, rounds, &salt, self.password.expose().as_bytes(), &mut salted);
        let keyed = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text);
        let client_key = keyed(&salted, b"Client Key");
        let stored_key = digest::digest(hash, client_key.as_ref());
        let last = format!("c=biws,r={nonce}");
        let said = format!("{},{challenge},{last}", self.bare);
        let signature = keyed(stored_key.as_ref(), said.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let vouched = keyed(keyed(&salted, b"Server Key").as_ref(), said.as_bytes());
        Ok((format!("{last},p={}", STANDARD.encode(proof)), Vouched(vouched.as_ref().to_vec())))
    }
}

impl Vouched {
    pub(super) fn holds(&self, last: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        let said = last.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text.split(|byte| *byte == b',').next()?).ok());
        said.is_some_and(|said| bool::from(said.ct_eq(&self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_is_answered_as_there() {
        let scram = Scram::new(Mechanism::ScramSha256, "user", Secret::new("pencil"), "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let challenge = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let (answer, vouched) = scram.answer(challenge.as_bytes()).unwrap();
        assert_eq!(answer, format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
        assert!(vouched.holds(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!vouched.holds(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
        assert!(!vouched.holds(b"e=other-error"));
    }

    #[test]
    fn challenges_that_make_no_sense_are_refused() {
        let scram = Scram::new(Mechanism::ScramSha512, "a,b=c", Secret::new("pencil"), "mine".to_owned());
        assert_eq!(scram.first(), "n,,n=a=2Cb=3Dc,r=mine");
        for challenge in [
            "",
            "r=mine",
            "r=mine,s=AAAA,i=1",
            "r=other,s=AAAA,i=1",
            "r=mine2,s=AAAA,i=0",
            "r=mine2,s=AAAA,i=4000000000",
            "r=mine2,s=!,i=1",
        ] {
            assert!(scram.answer(challenge.as_bytes()).is_err(), "{challenge}");
        }
        assert!(scram.answer(b"r=mine2,s=AAAA,i=1").is_ok());
    }
}
