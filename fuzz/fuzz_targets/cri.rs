//! See `stallscope_fuzz::cri`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::cri(data));
