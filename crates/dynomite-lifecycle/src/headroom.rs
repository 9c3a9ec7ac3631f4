//! Whether a donor has the memory for a copy: its store forks, and pages that are written meanwhile are there twice.

/// The share of its data that a store may write anew while a copy is taken,
/// one in so many: a copy takes a minute, and most data is not written in one.
const WRITTEN: u64 = 4;

/// Whether a store that uses so much of its container's memory may be copied;
/// both in bytes.
///
/// # Errors
/// In words for the peer that asked, which then tries the next donor.
pub fn room_for_copy(used: u64, limit: u64) -> Result<(), String> {
    let need = used.saturating_add(used / WRITTEN);
    if need <= limit {
        return Ok(());
    }
    Err(format!(
        "a copy could take this node's store over its memory: it uses {used} of {limit} bytes, and \
         what is written while it forks is there twice; give it more memory, or lower memoryPercent"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_data_must_have_room() {
        let table = [
            (0, 0, true),
            (80, 100, true),
            (81, 100, false),
            (100, 100, false),
            (u64::MAX, u64::MAX, true),
            (u64::MAX, 1, false),
        ];
        for (used, limit, fits) in table {
            assert_eq!(
                room_for_copy(used, limit).is_ok(),
                fits,
                "{used} of {limit}"
            );
        }
    }
}
