//! Kubernetes quantities: parsed exactly, compared by what they mean.

/// A quantity in billionths of its unit, or `None` when the text is not one.
pub fn parse(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = factor(suffix)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let mut value: i128 = 0;
    for part in [whole, fraction] {
        if !part.is_empty() {
            let scale = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
            value = value.checked_mul(scale)?.checked_add(part.parse().ok()?)?;
        }
    }
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value = value.checked_mul(factor)? / scale;
    Some(if negative { -value } else { value })
}

/// A quantity of bytes, rounded down; `None` when it is not one or negative.
pub fn bytes(text: &str) -> Option<u64> {
    u64::try_from(parse(text)? / NANO).ok()
}

const NANO: i128 = 1_000_000_000;

/// What a suffix stands for, in billionths.
fn factor(suffix: &str) -> Option<i128> {
    let binary = |power: u32| 1024_i128.pow(power) * NANO;
    Some(match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANO,
        "k" => NANO * 1_000,
        "M" => NANO * 1_000_000,
        "G" => NANO * 1_000_000_000,
        "T" => NANO * 1_000_000_000_000,
        "P" => NANO * 1_000_000_000_000_000,
        "E" => NANO * 1_000_000_000_000_000_000,
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => return exponent(suffix),
    })
}

/// The factor of a decimal exponent, such as `e3`.
fn exponent(suffix: &str) -> Option<i128> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = u32::try_from(power.checked_add(9)?).ok()?;
    10_i128.checked_pow(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_the_same_however_they_are_written() {
        for (left, right) in [
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("2e3", "2k"),
            ("+1", "1000m"),
            ("100", "1E2"),
        ] {
            assert_eq!(parse(left), parse(right), "{left} and {right}");
            assert!(parse(left).is_some(), "{left}");
        }
        assert_ne!(parse("1G"), parse("1Gi"));
        assert_eq!(bytes("1Ki"), Some(1024));
        assert_eq!(bytes("-1"), None);
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "Gi", "1.2.3", "1 Gi", "ten", "1Q", "--1", "1e", "e3"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(parse("99999999999999999999999999999999999999E"), None);
    }
}
