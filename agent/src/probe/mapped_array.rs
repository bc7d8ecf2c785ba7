//! BPF arrays mapped into the agent's memory: reading them needs no system call and no copy.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Context as _;
use aya::{Ebpf, Pod, maps::Map};

/// A `BPF_MAP_TYPE_ARRAY` with `BPF_F_MMAPABLE`, whose values are `T`, shared with the kernel.
pub struct Mapped<T> {
    start: NonNull<T>,
    length: usize,
    bytes: usize,
    values: PhantomData<T>,
}

// SAFETY: the mapping is owned, and is only accessed by atomic loads and stores of whole words.
unsafe impl<T: Pod + Send> Send for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Maps the array named `name`.
    ///
    /// # Errors
    /// When there is no such map, its values are not of `T`'s size, or the kernel refuses.
    pub fn open(ebpf: &Ebpf, name: &str) -> anyhow::Result<Self> {
        let map = ebpf
            .map(name)
            .with_context(|| format!("the object has no map `{name}`"))?;
        let Map::Array(data) = map else {
            anyhow::bail!("the map `{name}` is not an array");
        };
        let info = data
            .info()
            .with_context(|| format!("cannot ask about the map `{name}`"))?;
        // The kernel keeps array values at multiples of eight bytes.
        anyhow::ensure!(
            info.value_size() as usize == size_of::<T>() && size_of::<T>().is_multiple_of(8),
            "the values of the map `{name}` have {} bytes, not {}: agent and object do not match",
            info.value_size(),
            size_of::<T>(),
        );
        let length = info.max_entries() as usize;
        let bytes = length * size_of::<T>();
        // SAFETY: a new mapping of a file that the kernel checks; the result is checked below.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot map the array `{name}` ({bytes} bytes)"));
        }
        let start = NonNull::new(start.cast()).context("the kernel mapped at address 0")?;
        Ok(Self {
            start,
            length,
            bytes,
            values: PhantomData,
        })
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies a value, word by word: each word is whole, but the value as such may be in mid-change.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        if index >= self.length {
            return None;
        }
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        // SAFETY: `index` is in range; `T` is `Pod`, a multiple of eight bytes long (checked when
        // opened) and so is its place, so every word read is inside the mapping and every word of
        // `value` is written.
        unsafe {
            let from = self.start.add(index).cast::<u64>();
            let to = value.as_mut_ptr().cast::<u64>();
            for word in 0..size_of::<T>() / 8 {
                let from = AtomicU64::from_ptr(from.add(word).as_ptr());
                to.add(word).write(from.load(Ordering::Relaxed));
            }
            Some(value.assume_init())
        }
    }

    /// The first word of a value.
    #[must_use]
    pub fn first_word(&self, index: usize) -> Option<u64> {
        self.word(index, 0)
    }

    /// The word at `word` of a value; `None` beyond the end.
    #[must_use]
    pub fn word(&self, index: usize, word: usize) -> Option<u64> {
        (index < self.length && word < size_of::<T>() / 8).then(|| {
            // SAFETY: in range; the mapping lives as long as `self`, and words are only ever accessed whole.
            unsafe {
                let word = self.start.add(index).cast::<u64>().add(word);
                AtomicU64::from_ptr(word.as_ptr()).load(Ordering::Relaxed)
            }
        })
    }
}

impl<T: Pod> Mapped<T> {
    /// Stores the word at `word` of a value; does nothing beyond the end.
    pub fn set_word(&mut self, index: usize, word: usize, to: u64) {
        if index < self.length && word < size_of::<T>() / 8 {
            // SAFETY: in range; the kernel side reads whole words.
            unsafe {
                let word = self.start.add(index).cast::<u64>().add(word);
                AtomicU64::from_ptr(word.as_ptr()).store(to, Ordering::Relaxed);
            }
        }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, which nobody uses any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
