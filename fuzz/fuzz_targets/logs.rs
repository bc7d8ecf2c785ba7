//! See `stallscope_fuzz::logs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::logs(data));
