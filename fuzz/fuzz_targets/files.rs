//! See `stallscope_fuzz::files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::files(data));
