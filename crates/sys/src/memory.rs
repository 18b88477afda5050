//! Giving memory back to the kernel, for processes that wait most of their life.
#![expect(unsafe_code, reason = "malloc_trim and madvise on the program's own code have no safe wrappers")]

use std::ptr;

unsafe extern "C" {
    /// Where the linker put the program's first byte.
    static __executable_start: u8;
    /// The byte after its code.
    static etext: u8;
}

/// Gives back the free part of the heap, and the page tables of the program's code.
///
/// Nothing is lost: the code comes back from the page cache where it is needed next. A process that was forked
/// in the middle of some work and from here on mostly waits keeps a fraction of what it has: of the heap what
/// is in use, of the tables (4 KiB for each 2 MiB of code that was ever touched) those of its loop.
pub fn shed() {
    // SAFETY: malloc_trim has no preconditions; it releases pages that hold no allocation.
    unsafe { libc::malloc_trim(0) };
    let (start, end) = (ptr::addr_of!(__executable_start), ptr::addr_of!(etext));
    let page = rustix::param::page_size();
    let length = (end as usize - start as usize) / page * page;
    // SAFETY: the range is the program's headers, constants and code, as the linker laid them out, one read-only
    // mapping of the file after another. Private pages of a file that were never written, which read-only ones
    // cannot have been, are read again from the file when they are touched.
    unsafe { libc::madvise(start.cast_mut().cast(), length, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_in_use_stays() {
        let kept: Vec<String> = (0..1000).map(|number| format!("kept {number}")).collect();
        drop((0..1000).map(|number| format!("dropped {number}")).collect::<Vec<_>>());
        super::shed();
        assert!(kept.iter().enumerate().all(|(number, text)| *text == format!("kept {number}")));
    }
}
