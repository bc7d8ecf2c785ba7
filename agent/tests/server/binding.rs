//! Errors on listening, which say what to do.

use stallscope::server::{BindError, Holder, bind};

#[tokio::test]
async fn a_port_in_use_is_named_with_its_holder() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(first) = bind(address) else {
            eprintln!("skipped {address}: this host does not have it");
            continue;
        };
        let address = first.local_addr().unwrap();
        let error = bind(&address.to_string()).unwrap_err();
        let text = error.to_string();
        let BindError::InUse { holder, .. } = error else {
            panic!("{error:?}")
        };
        let command = std::fs::read_to_string("/proc/self/comm")
            .unwrap()
            .trim_end()
            .to_owned();
        assert_eq!(
            holder,
            Some(Holder {
                pid: std::process::id(),
                command
            })
        );
        assert!(
            text.starts_with(&format!(
                "cannot listen on {address}: the port is in use by "
            )),
            "{text}"
        );
        assert!(
            text.ends_with("choose another with --listen ADDR:PORT"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn addresses_that_cannot_be() {
    for (given, expected) in [
        (
            "9090",
            "expected ADDR:PORT, such as 127.0.0.1:9090 or [::1]:9090; did you mean 0.0.0.0:9090?",
        ),
        ("::1:9090", "did you mean [::1]:9090?"),
        ("192.0.2.1:9090", "this host has no such address"),
    ] {
        let error = bind(given).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_privileged_port() {
    match bind("127.0.0.1:1") {
        Err(error @ BindError::Privileged { .. }) => {
            assert!(
                error.to_string().contains("CAP_NET_BIND_SERVICE"),
                "{error}"
            );
        }
        Err(error) => panic!("{error}"),
        Ok(_) => eprintln!("skipped: this process may listen on privileged ports"),
    }
}

#[test]
fn outside_a_runtime_it_is_an_error_and_no_panic() {
    assert!(matches!(bind("127.0.0.1:0"), Err(BindError::Other { .. })));
}
