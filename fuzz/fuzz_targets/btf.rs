//! See `stallscope_fuzz::btf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::btf(data));
