//! The guest's memory on a file that it reads through and never writes: each clone keeps what it changes to itself.
//!
//! ```text
//! -object memory-backend-file,id=pc.ram,size=N,mem-path=FILE,share=off,readonly=on,rom=off,
//!         x-use-canonical-path-for-ramblock-id=off -machine memory-backend=pc.ram
//! ```
//! The RAM block keeps the name it had, so that states go from the one kind of memory to the other and back.
//! QEMU maps whole pages of the host, so a block that was captured on a host with smaller pages can be too short by a part
//! of one, and stays ordinary memory.
//!
//! `readonly=on,rom=off`: the file is opened for reading, the guest writes to private pages (QEMU 8.2 and later,
//! `qapi/qom.json`, `MemoryBackendFileProperties`).

use super::keyvalues::escape_commas;
use super::properties::Properties;
use super::{CmdlineError, CommandLine};
use crate::arch::{ARCHES, Arch};
use crate::stream::PAGE_BYTES;

/// Settings of a memory backend that hold for a file as well.
const KEPT: [&str; 5] = ["merge", "dump", "host-nodes", "policy", "prealloc-threads"];

/// A RAM block of a captured machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its length.
    pub size_bytes: u64,
    /// The size of its pages.
    pub page_bytes: u64,
}

impl CommandLine {
    fn locks_memory(&self) -> bool {
        self.named("overcommit").any(|option| option.keys().get("mem-lock").is_some_and(|lock| lock != "off"))
    }

    /// Whether QEMU takes all of the guest's memory from the host when it starts.
    #[must_use]
    pub fn allocates_memory_at_once(&self) -> bool {
        let is_whole = |backend: &Properties| {
            backend.is_on("prealloc") || backend.is_on("hugetlb") || backend.get("mem-path").is_some()
        };
        self.has_option("mem-path")
            || self.has_option("mem-prealloc")
            || self.locks_memory()
            || self.memory_backends().is_ok_and(|all| all.iter().any(|(_, backend)| is_whole(backend)))
    }

    /// The RAM block that [`CommandLine::set_memory_file`] can put on a file, by its index, on a host with such pages.
    ///
    /// # Errors
    /// Why that is not possible with this command line, in a few words.
    pub fn memory_for_file(&self, blocks: &[Block<'_>], host_page_bytes: u64) -> Result<usize, &'static str> {
        if self.has_option("mem-path") || self.has_option("mem-prealloc") {
            return Err("its memory is allocated with -mem-path or -mem-prealloc");
        }
        if self.locks_memory() {
            return Err("its memory is locked (-overcommit mem-lock)");
        }
        let backends = self.memory_backends().map_err(|_| "an -object can't be read")?;
        let found = match backends.as_slice() {
            [] if self.has_option("numa") => return Err("it has NUMA nodes without a memory backend"),
            [] => blocks.iter().position(|block| self.is_default_memory(block.name)),
            [(_, backend)] => {
                if backend.is_on("prealloc") || backend.is_on("hugetlb") {
                    return Err("its memory is preallocated or on huge pages");
                }
                let id = backend.get("id").unwrap_or_default();
                blocks.iter().position(|block| block.name == id || block.name == format!("/objects/{id}"))
            }
            _ => return Err("it has several memory backends"),
        };
        let at = found.ok_or("its memory has a name that is not known here")?;
        let block = &blocks[at];
        // A stream says nothing of ordinary memory, whatever pages the host had: it counts as 4 KiB.
        if block.page_bytes != PAGE_BYTES {
            return Err("its memory is on huge pages");
        }
        if !block.size_bytes.is_multiple_of(host_page_bytes) {
            return Err("its memory does not consist of whole pages of this host");
        }
        Ok(at)
    }

    /// Puts a RAM block found by [`CommandLine::memory_for_file`] on a file of its content.
    ///
    /// # Errors
    /// An option whose JSON can't be read.
    pub fn set_memory_file(&mut self, block: &Block<'_>, path: &str) -> Result<(), CmdlineError> {
        let id = block.name.rsplit('/').next().unwrap_or(block.name);
        let canonical = if block.name.starts_with('/') { "on" } else { "off" };
        let mut text = format!(
            "memory-backend-file,id={},size={}B,mem-path={},share=off,readonly=on,rom=off,\
             x-use-canonical-path-for-ramblock-id={canonical}",
            escape_commas(id),
            block.size_bytes,
            escape_commas(path),
        );
        let old = self.memory_backends()?.into_iter().next();
        match old {
            Some((at, backend)) => {
                for (key, value) in super::properties::flatten(&backend.tree()) {
                    if KEPT.contains(&key.split('.').next().unwrap_or(&key)) {
                        text += &format!(",{key}={}", escape_commas(&value));
                    }
                }
                self.options[at].value = Some(text);
            }
            None => {
                self.add_option("-object", Some(&text));
                self.add_option("-machine", Some(&format!("memory-backend={}", escape_commas(id))));
            }
        }
        Ok(())
    }

    /// Whether a RAM block is the one that QEMU makes for the machine without a memory backend. A program of another name can
    /// be any architecture's.
    fn is_default_memory(&self, block: &str) -> bool {
        let arch = Arch::of_program(self.program());
        ARCHES.iter().any(|known| arch.is_none_or(|arch| arch == known) && known.ram_blocks.contains(&block))
    }

    /// The memory backends, by their place among the options.
    fn memory_backends(&self) -> Result<Vec<(usize, Properties)>, CmdlineError> {
        let mut backends = Vec::new();
        for (at, option) in self.options.iter().enumerate().filter(|(_, option)| option.name() == "object") {
            let object = option.properties()?;
            if object.get("qom-type").is_some_and(|kind| kind.starts_with("memory-backend-")) {
                backends.push((at, object));
            }
        }
        Ok(backends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PC_RAM: Block<'_> = Block { name: "pc.ram", size_bytes: 1 << 29, page_bytes: 4096 };
    const ROM: Block<'_> = Block { name: "pc.rom", size_bytes: 1 << 17, page_bytes: 4096 };

    /// A host with the largest ordinary pages; nothing is refused on it that is not elsewhere, but for [`PARTS`].
    const HOST_PAGE_BYTES: u64 = 64 << 10;
    /// A block that can't be mapped there.
    const PARTS: Block<'_> = Block { size_bytes: (1 << 29) + (16 << 10), ..PC_RAM };

    fn on_file(words: &[&str], blocks: &[Block<'_>]) -> Result<Vec<String>, &'static str> {
        on_host(words, blocks, HOST_PAGE_BYTES)
    }

    fn on_host(
        words: &[&str],
        blocks: &[Block<'_>],
        host_page_bytes: u64,
    ) -> Result<Vec<String>, &'static str> {
        let argv: Vec<String> = ["qemu"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let mut line = CommandLine::parse(&argv).unwrap();
        let at = line.memory_for_file(blocks, host_page_bytes)?;
        line.set_memory_file(&blocks[at], "/f,x").unwrap();
        Ok(line.to_argv()[1..].to_vec())
    }

    /// The block must keep its name and size: QEMU refuses the state otherwise, or a later restore does.
    #[test]
    fn memory_keeps_its_name_and_size() {
        let file = |id: &str, canonical: &str| {
            format!(
                "memory-backend-file,id={id},size=536870912B,mem-path=/f,,x,share=off,readonly=on,rom=off,\
                 x-use-canonical-path-for-ramblock-id={canonical}"
            )
        };
        let default = on_file(&["-M", "q35", "-m", "512M"], &[ROM, PC_RAM]).unwrap();
        let (pc_ram, mem0) = (file("pc.ram", "off"), file("mem0", "off"));
        assert_eq!(default[4..], ["-object", &pc_ram, "-machine", "memory-backend=pc.ram"]);
        let block = Block { name: "mem0", ..PC_RAM };
        for object in [
            "memory-backend-ram,id=mem0,size=512M",
            "memory-backend-memfd,id=mem0,size=512M,share=on,reserve=off",
            "memory-backend-file,id=mem0,size=512M,mem-path=/dev/shm/x,share=on",
            r#"{"qom-type":"memory-backend-ram","id":"mem0","size":536870912}"#,
        ] {
            let words = ["-object", object, "-machine", "pc,memory-backend=mem0"];
            assert_eq!(
                on_file(&words, &[block, ROM]).unwrap()[..2],
                ["-object".to_owned(), mem0.clone()],
                "{object}"
            );
        }
        let canonical = Block { name: "/objects/mem0", ..PC_RAM };
        let words = ["-object", "memory-backend-ram,id=mem0,size=512M,dump=off", "-numa", "node,memdev=mem0"];
        assert_eq!(on_file(&words, &[canonical]).unwrap()[1], file("mem0", "on") + ",dump=off");
    }

    /// Each architecture's machines have a name of their own for their memory; that of another one is no memory there.
    #[test]
    fn the_memory_of_a_machine_is_its_architecture_s() {
        let found = |program: &str, name: &'static str| {
            let line = CommandLine::parse(&[program.to_owned()]).unwrap();
            line.memory_for_file(&[ROM, Block { name, ..PC_RAM }], HOST_PAGE_BYTES)
        };
        for arch in &ARCHES {
            for block in arch.ram_blocks {
                assert_eq!(found(arch.program, block), Ok(1), "{block}");
                assert_eq!(found("/usr/local/bin/my-qemu", block), Ok(1), "{block}");
                let others = ARCHES.iter().filter(|other| other.name != arch.name);
                others.for_each(|other| assert!(found(other.program, block).is_err(), "{block}"));
            }
        }
    }

    /// What can't be put on a file must be known before QEMU is started: the clone gets memory of its own then.
    #[test]
    fn memory_that_cannot_be_put_on_a_file_is_told() {
        let two = ["memory-backend-ram,id=a,size=256M", "memory-backend-ram,id=b,size=256M"];
        let huge = Block { page_bytes: 2 << 20, ..PC_RAM };
        for (words, block) in [
            (&["-object", two[0], "-object", two[1]][..], PC_RAM),
            (&["-mem-path", "/dev/hugepages"], PC_RAM),
            (&["-mem-prealloc"], PC_RAM),
            (&["-overcommit", "mem-lock=on"], PC_RAM),
            (&["-numa", "node"], PC_RAM),
            (&["-object", "memory-backend-memfd,id=pc.ram,size=512M,hugetlb=on"], PC_RAM),
            (&["-object", "memory-backend-ram,id=other,size=512M"], PC_RAM),
            (&["-m", "512M"], huge),
            (&["-m", "524304K"], PARTS),
            (&["-m", "512M"], ROM),
        ] {
            assert!(on_file(words, &[block]).is_err(), "{words:?}");
        }
        assert!(on_host(&["-m", "524304K"], &[PARTS], 16 << 10).is_ok(), "its host can map it");
    }
}
