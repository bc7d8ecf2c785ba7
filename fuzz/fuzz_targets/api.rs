//! See `stallscope_fuzz::api`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::api(data));
