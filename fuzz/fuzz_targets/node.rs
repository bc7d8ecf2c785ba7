//! See `stallscope_fuzz::node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::node(data));
