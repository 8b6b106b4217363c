//! Whether a namespace is empty, and emptying it.

use redis::{Value, cmd};

use super::super::Inner;
use super::super::error::{Fault, odd};
use super::super::keys::KeyName;
use crate::event::Lane;
use crate::store::StoreError;

/// How many names of keys one step of a scan asks for.
const SCAN_KEYS: usize = 1000;

/// Whether no gateway has kept anything there. What gateways leave that kept nothing goes.
pub(super) async fn is_empty(inner: &Inner) -> Result<bool, StoreError> {
    for keys in inner.shards.iter() {
        for lane in Lane::ALL {
            let length = inner.query.repeat(cmd("XLEN").arg(keys.lane(lane))).await.map_err(Fault::into_store)?;
            if length != Value::Int(0) {
                return Ok(false);
            }
        }
    }
    if each_key(inner, is_leftover, Found::Stop).await? {
        return Ok(false);
    }
    empty(inner).await?;
    Ok(true)
}

fn is_leftover(inner: &Inner, key: &str, name: KeyName<'_>) -> bool {
    match name {
        KeyName::Component(_) | KeyName::Memory(_) => false,
        KeyName::Said(_) => true,
        KeyName::Common => ![inner.names.revision(), inner.names.config()].iter().any(|kept| kept == key),
        KeyName::OfShard(_, rest) => {
            matches!(rest, "own" | "tok" | "n" | "f" | "sq" | "hs")
                || ["in:", "tb:", "seq:"].iter().any(|kind| rest.starts_with(kind))
        }
    }
}

/// Takes every key of the namespace away, but for the mark.
pub(super) async fn empty(inner: &Inner) -> Result<(), StoreError> {
    each_key(inner, |inner, key, _| key == inner.names.importing(), Found::Unlink).await.map(drop)
}

/// What to do with keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Stop,
    Unlink,
}

/// Looks at every key of the namespace but for those that are to `stay`. Whether it stopped at one.
async fn each_key(inner: &Inner, stay: impl Fn(&Inner, &str, KeyName<'_>) -> bool, found: Found) -> Result<bool, StoreError> {
    for master in inner.query.masters().await.map_err(Fault::into_store)? {
        let mut cursor = 0_u64;
        loop {
            let ask = cmd("SCAN").arg(cursor).arg("COUNT").arg(SCAN_KEYS).to_owned();
            let answer = inner.query.ask_at(master.as_ref(), &ask).await.map_err(Fault::into_store)?;
            let (next, keys): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer).map_err(|_| odd("SCAN"))?;
            for key in keys.iter().filter_map(|key| std::str::from_utf8(key).ok()) {
                let Some(name) = inner.names.read(key) else { continue };
                match found {
                    _ if stay(inner, key, name) => {}
                    Found::Stop => return Ok(true),
                    Found::Unlink => {
                        inner.query.repeat(cmd("UNLINK").arg(key)).await.map_err(Fault::into_store)?;
                    }
                }
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
    }
    Ok(false)
}
