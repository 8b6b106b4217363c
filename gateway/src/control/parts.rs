//! Stand-ins for what other modules will prepare, until they land: the snapshot's shape does not wait for them.

/// A connection's declarative filter.
#[derive(Clone, Debug, Default)]
pub struct Filter;

/// When a failed delivery is tried again.
#[derive(Clone, Debug, Default)]
pub struct RetryPolicy;

/// Where a destination's requests go: scheme, authority, base path, address policy.
#[derive(Clone, Debug, Default)]
pub struct Target;

/// Signs what goes out.
#[derive(Clone, Debug, Default)]
pub struct Signer;

/// What a plugin's run may use.
#[derive(Clone, Debug, Default)]
pub struct Limits;

/// What a plugin may ask for by name.
#[derive(Clone, Debug, Default)]
pub struct Secrets;
