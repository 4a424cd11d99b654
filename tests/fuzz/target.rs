//! One of `support::fuzz::TARGETS`, by the name of the binary that this is built as.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let name = env!("CARGO_BIN_NAME");
    for (target, _, run) in support::fuzz::TARGETS {
        if target == name {
            run(data);
            run(&support::fuzz::mend(target, data.to_vec()));
        }
    }
});
