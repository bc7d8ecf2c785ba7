//! See `stallscope_fuzz::query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::query(data));
