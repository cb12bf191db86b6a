//! Versions as others write them.

/// The first two numbers of a version that is written with a point between them, whatever follows: of "6.18.44-cloud" 6 and 18.
#[must_use]
pub fn numbers(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
