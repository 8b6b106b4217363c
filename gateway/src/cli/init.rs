//! `tidegate init`: the operator's key, the encryption key, and a configuration to start from. Once.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ring::rand::{SecureRandom, SystemRandom};

use super::files::write_private;
use crate::clock::Clock;
use crate::control::model::Minted;
use crate::control::seal;
use crate::event::KeyId;

/// Makes the keys and a configuration.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

const CONFIG: &str = "tidegate.toml";
const OPERATOR: &str = "keys/operator.key";
const ENCRYPTION: &str = "keys/encryption.key";

const STARTER: &str = r#"# Tidegate. Every field has a default; what is here is the place to begin.

[ingest]
listen = "0.0.0.0:8080"

[admin]
# Other machines reach it only through a proxy with TLS, or an address set here.
listen = "127.0.0.1:8082"

[store]
kind = "embedded"
path = "data"
# kind = "redis"
# urls = ["env:REDIS_URL"]

[keys]
operator = "file:keys/operator.key"
encryption = "file:keys/encryption.key"
"#;

/// Makes them, unless any is there.
pub fn run(args: &InitArgs) -> anyhow::Result<()> {
    init(&args.dir)?;
    println!("made {CONFIG}, {OPERATOR} and {ENCRYPTION} in {}", args.dir.display());
    println!("keep both keys: without the encryption key, stored secrets can't be read again");
    println!("next: tidegate serve --config {}", args.dir.join(CONFIG).display());
    Ok(())
}

fn init(dir: &Path) -> anyhow::Result<()> {
    for name in [OPERATOR, ENCRYPTION, CONFIG] {
        let path = dir.join(name);
        if path.symlink_metadata().is_ok() {
            bail!(
                "{} is there already; nothing was written. A key is made once: to make new ones, move the old ones away",
                path.display()
            );
        }
    }
    let keys = dir.join("keys");
    std::fs::create_dir_all(&keys).with_context(|| keys.display().to_string())?;
    let write = |name: &str, content: &str| write_private(&dir.join(name), content.as_bytes()).context(name.to_owned());
    write(ENCRYPTION, seal::generate_key()?.expose())?;
    write(OPERATOR, operator_key()?.text.expose())?;
    write_new(&dir.join(CONFIG), STARTER).context(CONFIG)
}

/// A new operator's key.
pub fn operator_key() -> anyhow::Result<Minted> {
    let mut random = [0; 48];
    SystemRandom::new().fill(&mut random).map_err(|_| seal::SealError::NoRandomness)?;
    let (id, secret) = random.split_at(16);
    let id = KeyId::new(Clock::system().now(), u128::from_be_bytes(id.try_into()?));
    Ok(Minted::new(id, secret.try_into()?))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Config;
    use crate::control::seal::Sealer;

    #[test]
    fn what_it_makes_is_used_by_the_configuration_that_it_makes_and_is_made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        init(dir.path()).expect("makes them");
        let config = Config::load(&dir.path().join(CONFIG)).expect("the starter is valid");
        let encryption = config.keys.encryption.resolve(Path::new("")).expect("is there");
        Sealer::new(&encryption, &[]).expect("is a key");
        let operator = config.keys.operator.resolve(Path::new("")).expect("is there");
        assert!(crate::control::model::parse_key(operator.expose()).is_some());
        for key in [OPERATOR, ENCRYPTION] {
            let mode = std::fs::metadata(dir.path().join(key)).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        std::fs::remove_file(dir.path().join(CONFIG)).expect("goes");
        let error = init(dir.path()).expect_err("keys are there");
        assert!(error.to_string().contains("operator.key"), "{error}");
        assert!(!dir.path().join(CONFIG).exists(), "nothing was written");
    }
}
