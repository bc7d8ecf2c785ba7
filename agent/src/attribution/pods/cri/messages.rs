//! The messages of the two calls, with the fields that the agent reads.
//!
//! Field numbers from `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`.

use std::collections::HashMap;

use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use prost::{DecodeError, Message};

/// Maximum number of sandboxes or containers taken from one answer; a node has room for some hundred pods.
pub(super) const MAX_ITEMS: usize = 16_384;

/// `ListPodSandboxRequest` and `ListContainersRequest` without a filter: all items, in any state.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ListAll {}

/// `ListPodSandboxResponse` and `ListContainersResponse`: both have their items as field 1.
#[derive(Debug, Default)]
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    /// Items that were left out.
    pub(super) beyond: usize,
}

/// `PodSandbox`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Sandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<SandboxMetadata>,
}

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SandboxMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

/// `Container`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) sandbox: String,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<ContainerMetadata>,
    /// Time of creation, in nanoseconds since 1970.
    #[prost(int64, tag = "7")]
    pub(super) created: i64,
    #[prost(map = "string, string", tag = "8")]
    pub(super) labels: HashMap<String, String>,
}

/// `ContainerMetadata`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// Written by hand because a derived message would take any number of items.
impl<T: Message + Default> Message for List<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(1, &self.items, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag == 1 && self.items.len() < MAX_ITEMS {
            return message::merge_repeated(wire_type, &mut self.items, buf, ctx);
        }
        self.beyond += usize::from(tag == 1);
        skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        message::encoded_len_repeated(1, &self.items)
    }

    fn clear(&mut self) {
        self.items.clear();
        self.beyond = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn container(number: usize) -> Container {
        Container {
            id: number.to_string(),
            ..Container::default()
        }
    }

    fn encoded(count: usize) -> Vec<u8> {
        let items = (0..count).map(container).collect();
        List { items, beyond: 0 }.encode_to_vec()
    }

    #[test]
    fn a_list_is_taken_up_to_its_bound() {
        for (count, beyond) in [(0, 0), (3, 0), (MAX_ITEMS, 0), (MAX_ITEMS + 5, 5)] {
            let list = List::<Container>::decode(encoded(count).as_slice()).expect("a list");
            assert_eq!(list.items.len(), count - beyond);
            assert_eq!(list.beyond, beyond);
            assert!(
                list.items
                    .iter()
                    .enumerate()
                    .all(|(i, item)| *item == container(i))
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..40_usize) {
            let _ = List::<Container>::decode(bytes.as_slice());
            let _ = List::<Sandbox>::decode(bytes.as_slice());
            let answer = encoded(10);
            let _ = List::<Container>::decode(&answer[..cut.min(answer.len())]);
        }
    }
}
