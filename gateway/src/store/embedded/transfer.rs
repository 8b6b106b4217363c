//! Moving everything out of a directory, or into an empty one, while no gateway has it open: both lock it.

mod export;
mod import;

pub use export::Export;
pub use import::Import;

use super::disk::{Disk, Tree};
use super::keys::{self, kind};
use crate::store::StoreError;

/// Refuses a directory that an import did not fill to its end.
pub(super) fn check_whole(disk: &Disk, dir: &std::path::Path) -> Result<(), StoreError> {
    match disk.get(Tree::Index, &keys::single(kind::IMPORTING))? {
        None => Ok(()),
        Some(_) => Err(StoreError::Refused(format!(
            "an import into {} did not come to its end: run `tidegate import` again, which begins anew",
            dir.display()
        ))),
    }
}

/// Blocks on the disk without holding up others.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Unavailable(format!("the move was cut short: {error}")))?
}
