//! Figures for people: three digits and a unit.

/// A time such as `3.40us`, `12.0ms`, `2m05s` or `3h20m`.
pub(crate) fn duration(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0..=99 => scaled(ns as f64, 1000.0, &["ns", "us", "ms", "s"]),
        100..=5_999 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A size such as `512B`, `4.00KiB` or `1.50GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A number in full up to eight digits, then such as `123M`.
pub(crate) fn count(count: u64) -> String {
    match count {
        0..=99_999_999 => count.to_string(),
        _ => scaled(count as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"]),
    }
}

/// A figure that may not exist.
pub(crate) fn or_dash(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "-".to_owned())
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let smallest = units.next().copied().unwrap_or_default();
    let mut unit = smallest;
    // From here on it would be rounded to four digits.
    while value >= 999.5 {
        let Some(larger) = units.next() else { break };
        value /= step;
        unit = larger;
    }
    let decimals = match value {
        _ if unit == smallest => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (3_400, "3.40us"),
            (9_996, "10.0us"),
            (999_700, "1.00ms"),
            (12_000_000, "12.0ms"),
            (99_900_000_000, "99.9s"),
            (125_000_000_000, "2m05s"),
            (12_000_000_000_000, "3h20m"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn sizes_are_binary() {
        let cases = [
            (0, "0B"),
            (512, "512B"),
            (1000, "0.98KiB"),
            (4096, "4.00KiB"),
            (256 << 20, "256MiB"),
            (3 << 29, "1.50GiB"),
            (u64::MAX, "16384PiB"),
        ];
        for (size, text) in cases {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn counts_are_short() {
        assert_eq!(count(12_345_678), "12345678");
        assert_eq!(count(123_456_789), "123M");
    }
}
