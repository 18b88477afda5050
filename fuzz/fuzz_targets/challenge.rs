//! What a registry says about how to prove who one is: any header is read, or passed over.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| {
    let _ = yare_distribution::challenge::parse(header);
});
