//! See `stallscope_fuzz::accept`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::accept(data));
