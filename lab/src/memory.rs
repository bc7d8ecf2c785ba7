//! Memory on a NUMA node of one's choice, and its node by the kernel.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, RawFd},
    path::PathBuf,
    ptr::NonNull,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Report, Setting, task::system};

/// Memory policy: allocate on these nodes and no other (`set_mempolicy(2)`).
const MPOL_BIND: libc::c_ulong = 2;

/// Bytes of a page; 4, 16 or 64 KiB.
#[must_use]
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// Folder of the kernel's settings for transparent huge pages.
pub const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";

/// Bytes of a huge page, if there are any.
#[must_use]
pub fn huge_size() -> Option<usize> {
    let read = |file: &str| fs::read_to_string(format!("{HUGE_PAGES}/{file}")).ok();
    let on = read("enabled")?.contains("[never]");
    (!on).then_some(())?;
    read("hpage_pmd_size")?.trim().parse().ok()
}

/// Largest huge page, in bytes, of which a truth can have several on each node of the lab's machines. With pages of
/// 64 KiB a huge page has 512 MiB.
const MOST_HUGE: usize = 32 << 20;

/// Bytes of a huge page; `None`, with the reason in the report, where there are none or too large ones.
pub fn huge_size_for(report: &mut Report) -> Option<usize> {
    match huge_size() {
        Some(size) if size > MOST_HUGE => report.leave_out(format!(
            "not held because a huge page has {} MiB here, and a node hardly more",
            size >> 20
        )),
        None => report.leave_out("this kernel has no transparent huge pages, or they are off"),
        small => return small,
    }
    None
}

/// Size of the large folios that anonymous memory gets with `MADV_HUGEPAGE`.
#[derive(Debug)]
pub struct Folios {
    /// Size in bytes.
    pub size: usize,
    _on: Option<Setting>,
}

impl Folios {
    /// Returns the size of a huge page, or enables the largest smaller folios (`hugepages-<size>kB/enabled`) where a
    /// huge page is too large. Returns `None` and reports why where there are neither. Only a `guest` of the lab may
    /// change the setting.
    ///
    /// # Errors
    /// When the kernel refuses the setting.
    pub fn large(guest: bool, report: &mut Report) -> Result<Option<Self>> {
        let others = huge_size()
            .filter(|size| guest && *size > MOST_HUGE)
            .and_then(|_| {
                let sizes = sizes_with("enabled").into_iter();
                sizes.filter(|(size, _)| *size <= MOST_HUGE).max()
            });
        let Some((size, enabled)) = others else {
            return Ok(huge_size_for(report).map(|size| Self { size, _on: None }));
        };
        println!("    folios of {} MiB in place of huge pages", size >> 20);
        let on = Some(Setting::put(enabled, "madvise")?);
        Ok(Some(Self { size, _on: on }))
    }
}

/// Lists the sizes of large folios in bytes, each with its control file `hugepages-<size>kB/NAME`.
#[must_use]
pub fn sizes_with(name: &str) -> Vec<(usize, PathBuf)> {
    let folders = fs::read_dir(HUGE_PAGES).into_iter().flatten().flatten();
    let sizes = folders.filter_map(|entry| {
        let folder = entry.file_name();
        let size = folder.to_str()?.strip_prefix("hugepages-")?;
        let kilobytes: usize = size.strip_suffix("kB")?.parse().ok()?;
        let path = entry.path().join(name);
        path.exists().then_some((kilobytes * 1024, path))
    });
    sizes.collect()
}

/// A mapping that nobody has touched; it stays until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    start: NonNull<u8>,
    /// Its length in pages.
    pub pages: usize,
}

// SAFETY: an address and a length, which every thread of the process may know; its bytes are only
// ever read and written one at a time and volatile, and mean nothing.
unsafe impl Send for Region {}

impl Region {
    /// Anonymous memory of base pages.
    ///
    /// # Errors
    /// When there is no room.
    pub fn anonymous(pages: usize) -> Result<Self> {
        let region = Self::map(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // An error means that there are no huge pages at all.
        let _ = region.advise(libc::MADV_NOHUGEPAGE);
        Ok(region)
    }

    /// Anonymous memory that begins at a multiple of `size` bytes, to become huge pages of that size.
    ///
    /// # Errors
    /// When there is no room or no such pages.
    pub fn huge(size: usize, count: usize) -> Result<Self> {
        let pages = size / page_size();
        let region = Self::map(
            pages * (count + 1),
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )?;
        let skip = region.start.align_offset(size) / page_size();
        let region = region.part(skip, pages * count);
        region.advise(libc::MADV_HUGEPAGE)?;
        Ok(region)
    }

    /// Maps a part of a file.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(pages: usize, flags: i32, fd: RawFd) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping wherever the kernel likes.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                pages * page_size(),
                protection,
                flags,
                fd,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot map {pages} pages"));
        }
        let start = NonNull::new(start.cast()).context("nothing is mapped at address 0")?;
        Ok(Self { start, pages })
    }

    /// Address of its first byte.
    #[must_use]
    pub fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// Some of its pages.
    ///
    /// # Panics
    /// When it has fewer pages.
    #[must_use]
    pub fn part(&self, first: usize, pages: usize) -> Self {
        assert!(first + pages <= self.pages, "a part lies within the whole");
        // SAFETY: within the mapping, as was just checked.
        let start = unsafe { self.start.add(first * page_size()) };
        Self { start, pages }
    }

    /// madvise(2).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn advise(&self, advice: i32) -> Result<()> {
        // SAFETY: our own mapping; the advices used here do not take memory away that is in use.
        let result =
            unsafe { libc::madvise(self.start.as_ptr().cast(), self.pages * page_size(), advice) };
        system(result).context("madvise(2)")
    }

    /// Writes to each `stride`th page.
    pub fn write_every(&self, stride: usize) {
        for page in (0..self.pages).step_by(stride) {
            // SAFETY: within the mapping.
            unsafe { self.start.add(page * page_size()).write_volatile(1) }
        }
    }

    /// Writes to each page.
    pub fn write(&self) {
        self.write_every(1);
    }

    /// Reads from each page.
    pub fn read(&self) {
        for page in 0..self.pages {
            // SAFETY: within the mapping.
            unsafe { self.start.add(page * page_size()).read_volatile() };
        }
    }

    /// Lets its pages be allocated on one node only (mbind(2)).
    ///
    /// # Errors
    /// When the kernel has no NUMA or no such node.
    pub fn bind(&self, node: u32) -> Result<()> {
        let mask: libc::c_ulong = 1 << node;
        // SAFETY: our own mapping, and a mask of one word, whose length in bits is one less than told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.pages * page_size(),
                MPOL_BIND,
                &raw const mask,
                libc::c_ulong::from(libc::c_ulong::BITS + 1),
                0,
            )
        };
        ensure!(
            result == 0,
            "cannot bind memory to node {node}: {}",
            io::Error::last_os_error()
        );
        Ok(())
    }

    /// The node of each page, or the negative error number of one that is not there (`move_pages(2)`).
    ///
    /// # Errors
    /// When the kernel has no NUMA.
    pub fn nodes(&self) -> Result<Vec<i32>> {
        let pages: Vec<*mut u8> = (0..self.pages)
            // SAFETY: within the mapping.
            .map(|page| unsafe { self.start.add(page * page_size()).as_ptr() })
            .collect();
        let mut status = vec![0_i32; self.pages];
        // SAFETY: as many addresses and as much room as is told; no nodes asks and moves nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                pages.len(),
                pages.as_ptr(),
                std::ptr::null::<i32>(),
                status.as_mut_ptr(),
                0,
            )
        };
        ensure!(result == 0, "move_pages(2): {}", io::Error::last_os_error());
        Ok(status)
    }
}

/// Makes a file in memory of so many pages, on the node of the calling thread's memory policy.
///
/// # Errors
/// When it cannot be made.
pub fn memory_file(pages: usize) -> Result<File> {
    // SAFETY: the name is a string.
    let fd = unsafe { libc::memfd_create(c"stallscope-lab".as_ptr(), libc::MFD_CLOEXEC) };
    system(fd).context("cannot make a file in memory")?;
    // SAFETY: a descriptor of our own.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&vec![1; pages * page_size()])
        .context("cannot fill a file in memory")?;
    Ok(file)
}

/// Maps the whole of such a file.
///
/// # Errors
/// When the kernel refuses.
pub fn map_file(file: &File, pages: usize, flags: i32) -> Result<Region> {
    Region::map(pages, flags, file.as_raw_fd())
}

/// Lets the calling thread allocate on one node only, or anywhere again (`set_mempolicy(2)`).
///
/// # Errors
/// When the kernel has no NUMA or no such node.
pub fn allocate_on(node: Option<u32>) -> Result<()> {
    let mask: libc::c_ulong = node.map_or(0, |node| 1 << node);
    let mode = node.map_or(0, |_| MPOL_BIND);
    // SAFETY: a mask of one word, whose length in bits is one less than told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            mode,
            &raw const mask,
            libc::c_ulong::from(libc::c_ulong::BITS + 1),
        )
    };
    ensure!(
        result == 0,
        "cannot allocate on node {node:?}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Reads a byte of each page of this process's program. Code that runs for the first time would otherwise cause a
/// page fault, which counts like any other.
///
/// # Errors
/// When `/proc/self/maps` cannot be read (proc(5)).
pub fn map_own_code() -> Result<()> {
    let read = || {
        io::Result::Ok((
            fs::read_link("/proc/self/exe")?,
            fs::read_to_string("/proc/self/maps")?,
        ))
    };
    let (program, maps) = read().context("cannot read what this process has mapped")?;
    let program = program.to_string_lossy();
    for line in maps.lines().filter(|line| line.ends_with(&*program)) {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        let bounds = range.split_once('-').map(|(start, end)| {
            [start, end].map(|address| usize::from_str_radix(address, 16).unwrap_or_default())
        });
        let (Some([start, end]), "r-xp" | "r--p") = (bounds, rights) else {
            continue;
        };
        for address in (start..end).step_by(page_size()) {
            // SAFETY: the kernel says that this is mapped and readable, and a program's mappings stay.
            unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() };
        }
    }
    Ok(())
}
