//! Who is told what becomes of each block.

/// Is told of every allocation and free as it happens, so that somebody else can see the pool: the shim writes it into
/// a file that others read. Block indices are those of [`Pool::slabs`](crate::Pool::slabs).
///
/// Called on the road of every request: a few stores, no lock, no call out. What is told of one block comes in order,
/// since a free is told before the block can be had again.
pub trait Witness: Send + Sync {
    /// The extent of `blocks` from `index` on, of which so many bytes were asked for, is the program's.
    fn allocated(&self, index: u32, blocks: u32, requested_bytes: usize);

    /// The same was freed in `epoch`: the GPU may use it until that is safe.
    fn freed(&self, index: u32, blocks: u32, requested_bytes: usize, epoch: u64);

    /// What was freed in `epoch` or before may be handed out again.
    fn safe(&self, epoch: u64);
}
