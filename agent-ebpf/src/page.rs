//! Facts that a page's flags and a fault's address hold, for pages of any size. Pages are counted as
//! pages: nothing here or in the agent turns them into bytes.

/// The NUMA node in a page's flags word, which begins at bit `shift`; 0 where the word holds none
/// (`shift` is 64).
#[inline(always)]
#[must_use]
pub const fn page_node(flags: u64, shift: u32) -> u32 {
    if shift < 64 {
        (flags >> shift) as u32
    } else {
        0
    }
}

/// Base pages of an allocation of this order.
#[inline(always)]
#[must_use]
pub const fn pages_of_order(order: u32) -> u32 {
    1 << (order & 31)
}

/// The page of the file that is mapped at `address`, in a mapping that begins at `start` with the
/// page `pgoff`.
#[inline(always)]
#[must_use]
pub const fn file_page(address: u64, start: u64, pgoff: u64, page_shift: u32) -> u64 {
    (address.wrapping_sub(start) >> page_shift).wrapping_add(pgoff)
}

/// True if `page` is among the `nr` pages from `first` on.
#[inline(always)]
#[must_use]
pub const fn is_among(page: u64, first: u64, nr: u32) -> bool {
    page.wrapping_sub(first) < nr as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cell as _, FAULT_COUNTS, FaultCell, FaultCount, MAX_NODES};

    /// Sizes of a page, and of a huge page (PMD), in bytes.
    const SIZES: [(u64, u64); 3] = [
        (4 << 10, 2 << 20),
        (16 << 10, 32 << 20),
        (64 << 10, 512 << 20),
    ];

    #[test]
    fn a_huge_page_counts_as_its_base_pages_whatever_their_size() {
        for ((size, huge), pages) in SIZES.into_iter().zip([512, 2048, 8192]) {
            let order = (huge / size).trailing_zeros();
            assert_eq!(pages_of_order(order), pages, "pages of {size} bytes");
            assert_eq!(u64::from(pages) * size, huge);
            let mut cell = FaultCell::new(7);
            cell.count(FaultCount::FirstTouchFaults, true, 1);
            cell.count(FaultCount::FirstTouchPages, true, pages_of_order(order));
            cell.count(FaultCount::FileMapPages, false, pages);
            let mut expected = [0; FAULT_COUNTS];
            expected[FaultCount::FirstTouchFaults as usize + 1] = 1;
            expected[FaultCount::FirstTouchPages as usize + 1] = pages;
            expected[FaultCount::FileMapPages as usize] = pages;
            assert_eq!(cell.counts, expected);
        }
        assert_eq!(pages_of_order(0), 1);
        // A gigabyte at once, in the smallest pages.
        assert_eq!(pages_of_order(18), 262_144);
    }

    #[test]
    fn a_counter_wraps_only_after_terabytes_between_two_readings() {
        // The agent takes a 32-bit counter for growing if it grew by less than half its range.
        for (size, huge) in SIZES {
            let pages = (huge / size) as u32;
            let mut cell = FaultCell::new(7);
            let faults = (1_u64 << 31) / u64::from(pages) - 1;
            cell.count(FaultCount::FirstTouchPages, false, faults as u32 * pages);
            let counted = cell.counts[FaultCount::FirstTouchPages as usize];
            assert!(counted.cast_signed() > 0);
            assert!(u64::from(counted) * size >= (8 << 40) - huge);
        }
    }

    #[test]
    fn a_fault_is_about_one_of_the_pages_it_maps_and_no_other() {
        for (size, huge) in SIZES {
            let shift = size.trailing_zeros();
            let pages = (huge / size) as u32;
            let (start, pgoff) = (0x7f00_0000_0000, 3);
            // The second huge page of the mapping, entered at its first, middle and last page.
            let address = start + huge;
            let first = file_page(address, start, pgoff, shift);
            assert_eq!(first, u64::from(pages) + pgoff);
            for at in [0, 1, pages / 2, pages - 1] {
                let fault = address + u64::from(at) * size;
                let page = file_page(fault, start, pgoff, shift);
                assert!(is_among(page, first, pages), "page {at} of {size} bytes");
                // Bytes within a page are of that page.
                assert_eq!(file_page(fault + size - 1, start, pgoff, shift), page);
                assert!(!is_among(page, first + u64::from(at) + 1, pages));
            }
            assert!(!is_among(first + u64::from(pages), first, pages));
            assert!(!is_among(first - 1, first, pages));
            assert!(!is_among(first, first, 0));
        }
    }

    #[test]
    fn the_page_size_matters_to_which_page_a_fault_is_about() {
        let page = |shift| file_page(0x50_0000, 0x40_0000, 0, shift);
        assert_eq!((page(12), page(14), page(16)), (256, 64, 16));
    }

    #[test]
    fn a_pages_node_is_read_at_every_width() {
        // The bits below are other flags and must not show.
        for bits in 1..=10 {
            let shift = 64 - bits;
            let most = (1_u64 << bits) - 1;
            for node in [0, 1, most / 2, most - 1, most] {
                let flags = node << shift | ((1 << shift) - 1);
                assert_eq!(u64::from(page_node(flags, shift)), node, "{bits} bits");
            }
        }
        assert_eq!(page_node(u64::MAX, 64 - 10), MAX_NODES - 1);
        assert_eq!(page_node(u64::MAX, 64), 0, "one node only");
    }
}
