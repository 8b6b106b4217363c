use crate::control::assemble::Dangling;
use crate::control::inspect::InspectError;
use crate::control::model::{FieldError, Kind};
use crate::control::seal::SealError;
use crate::control::service::LoadError;
use crate::control::state::{BuildError, RecordError};
use crate::store::{StoreError, TableFault};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is understood, and wrong.
    #[error("{}", describe(.0))]
    Invalid(Vec<FieldError>),
    /// Not there, or not the caller's.
    #[error("there is no {kind} `{reference}`")]
    NotFound {
        /// What was asked for.
        kind: &'static str,
        /// By which id or name.
        reference: String,
    },
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The name is another one's.
    #[error("there is a {kind} `{name}` already")]
    Taken {
        /// Of what.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Something refers to it.
    #[error("the {kind} is in use by {}", .by.join(", "))]
    InUse {
        /// What was to be deleted.
        kind: &'static str,
        /// What refers to it.
        by: Vec<String>,
    },
    /// It can't be done as things are.
    #[error("{0}")]
    State(&'static str),
    /// The tenant's plan has no room for it.
    #[error("{detail}")]
    OverPlan {
        /// A stable name.
        code: &'static str,
        /// Which limit, and what can be done.
        detail: String,
    },
    /// Its tenant is being deleted.
    #[error("the tenant is being deleted")]
    BeingDeleted,
    /// The idempotency key came with another request before.
    #[error("this idempotency key came with another request before")]
    OtherRequest,
    /// The component can't be used.
    #[error(transparent)]
    Component(InspectError),
    /// Other changes were always first.
    #[error("the configuration changes too fast, try again")]
    Busy,
    /// The entry of a plugin's table can't be written.
    #[error(transparent)]
    Table(TableFault),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Secrets can't be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The configuration in the store can't be used.
    #[error("the configuration in the store can't be used: {0}")]
    Unusable(String),
}

impl Error {
    /// There is no such thing.
    pub fn missing<K: Kind>(reference: &str) -> Self {
        Self::NotFound { kind: K::NAME, reference: reference.chars().take(80).collect() }
    }

    /// One field is wrong.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }
}

fn describe(faults: &[FieldError]) -> String {
    let faults: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
    faults.join("; ")
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Invalid(faults) => Self::Invalid(faults),
            BuildError::Seal(error) => Self::Seal(error),
        }
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl From<Dangling> for Error {
    fn from(error: Dangling) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => Self::Store(error),
            LoadError::Record(error) => error.into(),
            LoadError::Dangling(error) => error.into(),
        }
    }
}
