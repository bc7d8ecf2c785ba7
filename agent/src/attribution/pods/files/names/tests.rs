use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const UID: &str = "3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a4";
const ID: &str = "8f1c2d3e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// Returns the link's name as the kubelet makes it, cut as the kubelet cuts it.
fn link_name(namespace: &str, pod: &str, container: &str, id: &str) -> String {
    let mut name = format!("{pod}_{namespace}_{container}-{id}");
    name.truncate(255 - ".log".len());
    name + ".log"
}

fn target(namespace: &str, pod: &str, uid: &str, container: &str) -> PathBuf {
    format!("/var/log/pods/{namespace}_{pod}_{uid}/{container}/0.log").into()
}

#[test]
fn directories_of_the_api_and_of_files() {
    let api = PodName::parse(&format!("shop_cart-0_{UID}")).expect("a pod");
    assert_eq!(
        (api.namespace.as_str(), api.name.as_str()),
        ("shop", "cart-0")
    );
    let hash = "0123456789abcdef0123456789abcdef";
    let file = PodName::parse(&format!("kube-system_etcd-n1.example.com_{hash}")).expect("a pod");
    assert_eq!(file.name, "etcd-n1.example.com");
    assert!(file.uid.is_config_hash());
}

#[test]
fn what_is_no_pods_directory() {
    let long = "a".repeat(64);
    for name in [
        String::new(),
        "lost+found".to_owned(),
        UID.to_owned(),
        format!("cart-0_{UID}"),
        format!("shop_cart-0_{UID}_more"),
        format!("shop__{UID}"),
        format!("_cart-0_{UID}"),
        format!("shop_cart-0_{}", &UID[1..]),
        format!("shop_cart-0_{}", UID.to_uppercase()),
        format!("{long}_cart-0_{UID}"),
        format!("shop_{}_{UID}", long.repeat(4)),
        format!("shop_Cart_{UID}"),
        format!("sh.op_cart_{UID}"),
        format!("shop_c\u{e4}rt_{UID}"),
        format!("shop_cart 0_{UID}"),
    ] {
        assert_eq!(PodName::parse(&name), None, "{name}");
    }
}

#[test]
fn a_link_must_agree_with_its_target() {
    let good = link_name("shop", "cart-0", "web-server", ID);
    let to = target("shop", "cart-0", UID, "web-server");
    assert_eq!(
        Link::parse(&good, &to).expect("a link").container,
        "web-server"
    );
    for name in [
        link_name("shop", "cart-1", "web-server", ID),
        link_name("other", "cart-0", "web-server", ID),
        link_name("shop", "cart-0", "web", ID),
        link_name("shop", "cart-0", "server", ID),
        link_name("shop", "cart-0", "web-server", &ID[1..]),
        link_name("shop", "cart-0", "web-server", &format!("{ID}0")),
        link_name("shop", "cart-0", "web-server", &ID.to_uppercase()),
        link_name("shop", "cart-0", "web-server", ""),
        "x.log".to_owned(),
        good.replace(".log", ".txt"),
    ] {
        assert_eq!(Link::parse(&name, &to), Err(Wrong::Name), "{name}");
    }
    for to in [
        "/",
        "0.log",
        "../../0.log",
        "/var/lib/docker/containers/x/x-json.log",
        "/var/log/pods/shop_cart-0/web-server/0.log",
        &format!("/var/log/pods/shop_cart-0_{UID}/web-server/.log"),
        &format!("/var/log/pods/shop_cart-0_{UID}/web-server/x.log"),
        &format!("/var/log/pods/shop_cart-0_{UID}/web-server/0.log/.."),
        &format!("/var/log/pods/shop_cart-0_{UID}/web_server/0.log"),
        &format!("/var/log/pods/shop_cart-0_{UID}/0.log"),
    ] {
        assert_eq!(
            Link::parse(&good, Path::new(to)),
            Err(Wrong::Target),
            "{to}"
        );
    }
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z0-9]([-a-z0-9]{0,14}[a-z0-9])?",
        1 => "[a-z0-9][-a-z0-9]{40,61}[a-z0-9]",
        1 => Just("a".repeat(63)),
    ]
}

fn subdomain() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z0-9]([-a-z0-9]{0,14}[a-z0-9])?(\\.[a-z0-9]{1,5}){0,2}",
        2 => "[a-z0-9][-a-z0-9.]{80,251}[a-z0-9]",
        1 => Just("b".repeat(253)),
    ]
}

fn uid() -> impl Strategy<Value = String> {
    "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}"
}

proptest! {
    #[test]
    fn legal_names_round_trip(
        namespace in label(), pod in subdomain(), container in label(), uid in uid(), id in "[0-9a-f]{64}",
    ) {
        let name = link_name(&namespace, &pod, &container, &id);
        prop_assert!(name.len() <= 255);
        let link = Link::parse(&name, &target(&namespace, &pod, &uid, &container));
        let link = link.map_err(|wrong| TestCaseError::fail(format!("{name}: {wrong:?}")))?;
        prop_assert_eq!(link.pod.uid.as_str(), uid);
        prop_assert_eq!(&link.pod.namespace, &namespace);
        prop_assert_eq!(&link.pod.name, &pod);
        prop_assert_eq!(&link.container, &container);
        let room = 251_usize.saturating_sub(pod.len() + namespace.len() + container.len() + 3);
        prop_assert_eq!(link.id.as_str(), &id[..room.min(64)]);
        prop_assert_eq!(link.whole_id().is_some(), room >= 64);
    }

    #[test]
    fn any_text_is_taken_or_refused(name in ".{0,300}", target in "(/?[a-z_./0-9-]{0,40}){0,5}") {
        let _ = PodName::parse(&name);
        let _ = Link::parse(&name, Path::new(&target));
    }
}
