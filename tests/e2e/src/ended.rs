//! The end of a load: its standard input ends, or its time is up.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A flag that rises when the input ends or the time is up.
pub fn until_input_ends(seconds: u64) -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let by_input = Arc::clone(&ended);
    thread::spawn(move || {
        let mut rest = Vec::new();
        // An input that cannot be read has ended, too.
        let _ = std::io::stdin().read_to_end(&mut rest);
        by_input.store(true, Ordering::Relaxed);
    });
    let by_time = Arc::clone(&ended);
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(seconds));
        by_time.store(true, Ordering::Relaxed);
    });
    ended
}
