use super::Faults;

/// The longest name.
const MAX_NAME: usize = 64;

/// What ids start with: a name that does too could be taken for one.
const ID_PREFIXES: [&str; 8] = ["ten_", "src_", "dst_", "con_", "plg_", "key_", "evt_", "dlv_"];

/// Checks a name: 1 to 64 letters, digits, `-`, `_` and `.`, a letter or digit first, and not what an id looks like.
pub fn check_name(field: &str, name: &str, faults: &mut Faults) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty()
        || name.len() > MAX_NAME
        || !name.chars().all(plain)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        faults.add(field, "must be 1 to 64 letters, digits, `-`, `_` or `.`, and start with a letter or digit");
    } else if ID_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        faults.add(field, "must not start like an id");
    }
}
