//! Sizes and durations as the user writes them. Strict: a number without its unit is refused.

use std::time::Duration;

/// Reads a size: a whole number and `K`, `M`, `G` or `T` (also `KiB`, ...), powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    const HOW: &str = "write a whole number and its unit: 512M, 2G or 2GiB (powers of 1024)";
    let (number, unit) = split(text);
    let shift = match unit {
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(HOW.into()),
    };
    let number: u64 = number.parse().map_err(|_| HOW.to_owned())?;
    let bytes = number.checked_mul(1 << shift).ok_or("it is too large")?;
    if bytes == 0 { Err("it is zero".into()) } else { Ok(bytes) }
}

/// Reads a duration: a number, possibly with decimals, and `us`, `ms`, `s`, `m` or `h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const HOW: &str = "write a number and its unit: 500us, 100ms, 2s or 1m";
    let (number, unit) = split(text);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(HOW.into()),
    };
    let number: f64 = number.parse().map_err(|_| HOW.to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "it is too long".into())
}

/// The leading digits and dots, and what follows.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        for bad in ["", "M", "512", "0M", "-1G", "1.5G", "2GB", "2 G", "2g", "99999999999T", "١M"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("1m"), Ok(Duration::from_secs(60)));
        for bad in ["", "10", "s", "-1s", "1 s", "1.2.3s", "1d", "infs", "1e3s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
