//! See `stallscope_fuzz::cgroups`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stallscope_fuzz::cgroups(data));
