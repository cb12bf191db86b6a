//! On which NUMA node the pool's slabs lie: the GPU's own, so that no copy crosses from socket to socket.
//!
//! The driver takes page-locked memory where the calling thread's policy says. So the thread that reserves a slab
//! prefers the GPU's node for the length of that one call (set_mempolicy(2)), and afterwards is as it was. *Preferred*
//! and not *bound*: where that node is full, memory elsewhere is better than none. A program that was given a policy of
//! its own (numactl(8)) knows better than we do, and keeps it.
//!
//! Candidates for knowing the node: the driver's `CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID` and sysfs's `numa_node` of the PCI
//! device. The driver's comes first, since it is right in a virtual machine that hides the bus as well as on boards where
//! the GPU's memory is a node itself; drivers before CUDA 12.2 do not know it, so sysfs is asked then.
//!
//! A machine of one node is recognised by one file that is read when the pool is made; nothing is asked for each slab.

use crate::driver;
use std::ffi::{CStr, c_int, c_uint};
use std::path::Path;

/// The node that slabs should lie on; none where there is no choice or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    node: Option<u32>,
}

/// What a GPU says about its place.
pub(crate) trait Place {
    /// The host's node nearest to it, where the driver knows.
    fn host_node(&self) -> Option<u32>;
    /// Its PCI device as sysfs names it.
    fn pci_device(&self) -> Option<String>;
}

/// The memory policy of the calling thread.
pub(crate) trait Policy {
    /// Whether it is the system's, not one that somebody chose.
    fn is_default(&self) -> bool;
    /// Prefers a node from now on; false where that cannot be had.
    fn prefer(&self, node: u32) -> bool;
    /// Has the system's again.
    fn reset(&self);
}

impl Placement {
    /// The node of the GPU at `place`, in the system that `sysfs` shows.
    pub(crate) fn find(sysfs: &Path, place: &impl Place) -> Self {
        let online = std::fs::read_to_string(sysfs.join("devices/system/node/online")).unwrap_or_default();
        // A list of numbers and ranges (sysfs-devices-node): "0" is one node, "0-1" and "0,2" are two.
        if !online.contains(['-', ',']) {
            return Self { node: None };
        }
        Self { node: place.host_node().or_else(|| node_of_device(sysfs, &place.pci_device()?)) }
    }

    /// Makes a reservation with the node preferred, and the policy afterwards as it was.
    pub(crate) fn around<R>(self, policy: &impl Policy, reserve: impl FnOnce() -> R) -> R {
        let is_preferred = self.node.is_some_and(|node| policy.is_default() && policy.prefer(node));
        let reserved = reserve();
        if is_preferred {
            policy.reset();
        }
        reserved
    }
}

fn node_of_device(sysfs: &Path, device: &str) -> Option<u32> {
    let text = std::fs::read_to_string(sysfs.join("bus/pci/devices").join(device).join("numa_node")).ok()?;
    // -1 where the firmware does not say, so it is no number of ours.
    text.trim().parse().ok()
}

/// The GPU of the context that is current.
pub(crate) struct CurrentGpu;

impl CurrentGpu {
    fn device(&self) -> Option<c_int> {
        let mut device = 0;
        driver::current_device(&raw mut device).is_ok().then_some(device)
    }

    /// What the driver says of it (cuDeviceGetAttribute), where it knows the attribute.
    pub(crate) fn attribute(&self, attribute: c_uint) -> Option<c_int> {
        let mut value = 0;
        driver::device_attribute(&raw mut value, attribute, self.device()?).is_ok().then_some(value)
    }
}

impl Place for CurrentGpu {
    fn host_node(&self) -> Option<u32> {
        /// `CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID`, CUDA Driver API, cuDeviceGetAttribute.
        const HOST_NUMA_ID: c_uint = 134;
        u32::try_from(self.attribute(HOST_NUMA_ID)?).ok()
    }

    fn pci_device(&self) -> Option<String> {
        let mut text = [0_u8; 32];
        let length = text.len() as c_int;
        if !driver::pci_bus_id(text.as_mut_ptr().cast(), length, self.device()?).is_ok() {
            return None;
        }
        // The driver writes upper case, sysfs lower.
        Some(CStr::from_bytes_until_nul(&text).ok()?.to_str().ok()?.to_ascii_lowercase())
    }
}

/// The kernel's policy for the calling thread; get_mempolicy(2), set_mempolicy(2). A container may forbid either.
pub(crate) struct Kernel;

/// `MPOL_DEFAULT` and `MPOL_PREFERRED` of <linux/mempolicy.h>.
const DEFAULT: c_int = 0;
const PREFERRED: c_int = 1;

/// The kernel takes masks of up to this many nodes.
const MASK_NODES: usize = 1024;

type Mask = [libc::c_ulong; MASK_NODES / 64];

impl Policy for Kernel {
    fn is_default(&self) -> bool {
        let (mut mode, mut mask): (c_int, Mask) = (0, [0; MASK_NODES / 64]);
        // SAFETY: get_mempolicy(2) writes the mode and a mask of as many bits as it is told there are.
        let asked =
            unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, mask.as_mut_ptr(), MASK_NODES, 0, 0) };
        asked == 0 && mode == DEFAULT
    }

    fn prefer(&self, node: u32) -> bool {
        let mut mask: Mask = [0; MASK_NODES / 64];
        let Some(word) = mask.get_mut(node as usize / 64) else {
            return false;
        };
        *word = 1 << (node % 64);
        // One more than there are bits: the kernel takes one off (set_mempolicy(2), NOTES of numactl's libnuma).
        // SAFETY: set_mempolicy(2) reads a mask of as many bits as it is told there are.
        unsafe { libc::syscall(libc::SYS_set_mempolicy, PREFERRED, mask.as_ptr(), MASK_NODES + 1) == 0 }
    }

    fn reset(&self) {
        // SAFETY: set_mempolicy(2) without a mask.
        unsafe { libc::syscall(libc::SYS_set_mempolicy, DEFAULT, std::ptr::null::<libc::c_ulong>(), 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Gpu {
        node: Option<u32>,
        device: &'static str,
    }

    impl Place for Gpu {
        fn host_node(&self) -> Option<u32> {
            self.node
        }

        fn pci_device(&self) -> Option<String> {
            Some(self.device.to_owned())
        }
    }

    /// Writes down what is asked of it.
    struct Double {
        is_default: bool,
        obeys: bool,
        calls: RefCell<Vec<String>>,
    }

    impl Double {
        fn new(is_default: bool, obeys: bool) -> Self {
            Self { is_default, obeys, calls: RefCell::default() }
        }
    }

    impl Policy for Double {
        fn is_default(&self) -> bool {
            self.calls.borrow_mut().push("ask".to_owned());
            self.is_default
        }

        fn prefer(&self, node: u32) -> bool {
            self.calls.borrow_mut().push(format!("prefer {node}"));
            self.obeys
        }

        fn reset(&self) {
            self.calls.borrow_mut().push("reset".to_owned());
        }
    }

    /// A machine whose GPU at 0000:5c:00.0 is on `node`.
    fn machine(online: &str, node: &str) -> tempfile::TempDir {
        let sysfs = tempfile::tempdir().unwrap();
        let nodes = sysfs.path().join("devices/system/node");
        let device = sysfs.path().join("bus/pci/devices/0000:5c:00.0");
        std::fs::create_dir_all(&nodes).unwrap();
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(nodes.join("online"), online).unwrap();
        std::fs::write(device.join("numa_node"), node).unwrap();
        sysfs
    }

    fn reserve_on(placement: Placement, policy: &Double) -> Vec<String> {
        let answer = placement.around(policy, || {
            policy.calls.borrow_mut().push("reserve".to_owned());
            7
        });
        assert_eq!(answer, 7);
        policy.calls.take()
    }

    const GPU: Gpu = Gpu { node: None, device: "0000:5c:00.0" };

    #[test]
    fn a_slab_is_reserved_on_the_gpus_node_and_the_policy_is_as_before() {
        let sysfs = machine("0-1\n", "1\n");
        let placement = Placement::find(sysfs.path(), &GPU);
        let calls = reserve_on(placement, &Double::new(true, true));
        assert_eq!(calls, ["ask", "prefer 1", "reserve", "reset"]);
    }

    #[test]
    fn the_driver_knows_better_than_the_bus() {
        let sysfs = machine("0,2\n", "0\n");
        let placement = Placement::find(sysfs.path(), &Gpu { node: Some(2), ..GPU });
        assert_eq!(placement, Placement { node: Some(2) });
    }

    #[test]
    fn one_node_needs_no_question_for_each_slab() {
        let sysfs = machine("0\n", "0\n");
        let placement = Placement::find(sysfs.path(), &Gpu { node: Some(0), ..GPU });
        assert_eq!(reserve_on(placement, &Double::new(true, true)), ["reserve"]);
    }

    #[test]
    fn where_nobody_knows_the_node_nothing_is_changed() {
        for (online, node, gpu) in
            [("0-1", "-1\n", GPU), ("0-1", "1", Gpu { node: None, device: "0000:ff:00.0" }), ("", "1", GPU)]
        {
            let sysfs = machine(online, node);
            let placement = Placement::find(sysfs.path(), &gpu);
            assert_eq!(reserve_on(placement, &Double::new(true, true)), ["reserve"], "{online} {node}");
        }
        assert_eq!(Placement::find(Path::new("/no/such/folder"), &GPU), Placement { node: None });
    }

    #[test]
    fn a_policy_that_the_program_was_given_stays() {
        let sysfs = machine("0-1", "1");
        let placement = Placement::find(sysfs.path(), &GPU);
        assert_eq!(reserve_on(placement, &Double::new(false, true)), ["ask", "reserve"]);
    }

    #[test]
    fn a_policy_that_cannot_be_had_is_done_without() {
        let sysfs = machine("0-1", "1");
        let placement = Placement::find(sysfs.path(), &GPU);
        assert_eq!(reserve_on(placement, &Double::new(true, false)), ["ask", "prefer 1", "reserve"]);
    }

    #[test]
    fn the_kernels_policy_is_the_systems_again_afterwards() {
        // Where a container forbids the calls, nothing is changed either.
        if Kernel.is_default() && Kernel.prefer(0) {
            assert!(!Kernel.is_default());
            Kernel.reset();
            assert!(Kernel.is_default());
        }
    }
}
