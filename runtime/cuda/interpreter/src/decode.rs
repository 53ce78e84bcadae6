//! Statements to instructions whose operands are numbers of registers; immediates and addresses of shared variables are
//! registers that nobody writes.

use std::collections::HashMap;

mod arithmetic;

use crate::Error;
use crate::parse::{self, Statement};

/// A register number within its file.
pub(crate) type Reg = u16;

/// Functions of two 32-bit values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bin {
    Add,
    Sub,
    Mul,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    MinS,
    MaxS,
    MinU,
    MaxU,
    DivU,
    RemU,
    FAdd,
    FSub,
    FMul,
    FDiv,
    FMax,
    FMin,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// How a value is read for comparisons and conversions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ty {
    U16,
    S16,
    U32,
    S32,
    F32,
    U64,
    S64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Space {
    Global,
    Shared,
}

/// An address: a register of 64 or 32 bits plus an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) wide: bool,
    pub(crate) base: Reg,
    pub(crate) offset: i64,
}

/// Size and sign of what memory holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) bytes: u8,
    pub(crate) signed: bool,
    pub(crate) space: Space,
    pub(crate) volatile: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Do {
    Mov32(Reg, Reg),
    Mov64(Reg, Reg),
    Bin32(Bin, Reg, Reg, Reg),
    Bin16(Bin, bool, Reg, Reg, Reg),
    Bin64(Bin, Reg, Reg, Reg),
    /// The amount has 32 bits.
    Shift64(Bin, Reg, Reg, Reg),
    /// 32 bits to 64, signed or not.
    MulWide(bool, Reg, Reg, Reg),
    /// 16 bits to 32.
    MulWide16(bool, Reg, Reg, Reg),
    Mad(Reg, Reg, Reg, Reg),
    Fma(Reg, Reg, Reg, Reg),
    Dp4a(Reg, Reg, Reg, Reg),
    Prmt(Reg, Reg, Reg, Reg),
    Bfe(bool, Reg, Reg, Reg, Reg),
    ShfR(Reg, Reg, Reg, Reg),
    Clz64(Reg, Reg),
    Rcp(Reg, Reg),
    /// The flag: no number counts as true.
    Setp(Cmp, bool, Ty, Reg, Reg, Reg),
    SetpPred(bool, Reg, Reg, Reg),
    Selp32(Reg, Reg, Reg, Reg),
    Selp64(Reg, Reg, Reg, Reg),
    PredBin(Bin, Reg, Reg, Reg),
    PredNot(Reg, Reg),
    PredMov(Reg, Reg),
    Cvt(Ty, Ty, Reg, Reg),
    /// The flag: the register has 64 bits.
    Load(Cell, bool, Reg, Address),
    Store(Cell, bool, Reg, Address),
    AtomAdd(Space, Reg, Address, Reg),
    Shfl(Reg, Reg, Reg),
    Mma([Reg; 4], [Reg; 4], [Reg; 2], [Reg; 4]),
    WmmaLoad {
        space: Space,
        d: [Reg; 2],
        address: Address,
        stride: Reg,
    },
    WmmaMma([Reg; 8], [Reg; 2], [Reg; 2], [Reg; 8]),
    WmmaStore {
        a: [Reg; 8],
        address: Address,
        stride: Reg,
    },
    Fence,
    Barrier,
    WarpBarrier,
    Branch(u32),
    Exit,
}

#[derive(Clone, Debug)]
pub(crate) struct Instr {
    pub(crate) line: u32,
    pub(crate) guard: Option<(Reg, bool)>,
    pub(crate) action: Do,
}

/// What is in a register before the first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Init {
    Bits(u64),
    /// Byte offset within the parameters.
    Param(usize),
    Tid,
    Block,
    Blocks,
    Threads,
}

/// A decoded kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    pub(crate) code: Vec<Instr>,
    pub(crate) regs32: usize,
    pub(crate) regs64: usize,
    pub(crate) preds: usize,
    pub(crate) init32: Vec<(Reg, Init)>,
    pub(crate) init64: Vec<(Reg, Init)>,
    pub(crate) shared_len: usize,
    pub(crate) max_threads: Option<u32>,
    /// Sizes of its parameters, in order.
    pub params: Vec<usize>,
}

/// Register files in the making.
#[derive(Default)]
struct Names {
    narrow: HashMap<String, Reg>,
    wide: HashMap<String, Reg>,
    preds: HashMap<String, Reg>,
    init32: HashMap<Init, Reg>,
    init64: HashMap<Init, Reg>,
    next32: Reg,
    next64: Reg,
}

struct Decoder<'k> {
    kernel: &'k parse::Kernel,
    names: Names,
    offsets: HashMap<&'k str, usize>,
}

pub(crate) fn kernel(parsed: &parse::Kernel) -> Result<Kernel, Error> {
    let (mut offsets, mut at) = (HashMap::new(), 0usize);
    for (name, size) in &parsed.params {
        at = at.next_multiple_of(*size);
        offsets.insert(name.as_str(), at);
        at += size;
    }
    let mut decoder = Decoder { kernel: parsed, names: Names::default(), offsets };
    let mut code = Vec::with_capacity(parsed.statements.len());
    for s in &parsed.statements {
        let bad = || Error::syntax(s.line, format!("unknown instruction {}", s.name.join(".")));
        let guard = s.guard.as_ref().map(|(name, negated)| (decoder.pred(name), *negated));
        let action = decoder.action(s).ok_or_else(bad)?;
        code.push(Instr { line: s.line, guard, action });
    }
    code.push(Instr { line: 0, guard: None, action: Do::Exit });
    let Names { init32, init64, next32, next64, preds, .. } = decoder.names;
    Ok(Kernel {
        name: parsed.name.clone(),
        code,
        regs32: usize::from(next32),
        regs64: usize::from(next64),
        preds: preds.len(),
        init32: init32.into_iter().map(|(i, r)| (r, i)).collect(),
        init64: init64.into_iter().map(|(i, r)| (r, i)).collect(),
        shared_len: parsed.shared_len,
        max_threads: parsed.max_threads,
        params: parsed.params.iter().map(|p| p.1).collect(),
    })
}

fn ty(name: &str) -> Option<Ty> {
    Some(match name {
        "u16" | "b16" => Ty::U16,
        "s16" => Ty::S16,
        "u32" | "b32" => Ty::U32,
        "s32" => Ty::S32,
        "f32" => Ty::F32,
        "u64" | "b64" => Ty::U64,
        "s64" => Ty::S64,
        _ => return None,
    })
}

impl Decoder<'_> {
    fn fresh(next: &mut Reg) -> Reg {
        *next += 1;
        *next - 1
    }

    fn constant32(&mut self, init: Init) -> Reg {
        let next = &mut self.names.next32;
        *self.names.init32.entry(init).or_insert_with(|| Self::fresh(next))
    }

    fn constant64(&mut self, init: Init) -> Reg {
        let next = &mut self.names.next64;
        *self.names.init64.entry(init).or_insert_with(|| Self::fresh(next))
    }

    fn pred(&mut self, name: &str) -> Reg {
        let next = self.names.preds.len() as Reg;
        *self.names.preds.entry(name.to_owned()).or_insert(next)
    }

    fn immediate(&self, text: &str) -> Option<u64> {
        if let Some(hex) = text.strip_prefix("0f") {
            return u64::from_str_radix(hex, 16).ok();
        }
        if let Some(hex) = text.strip_prefix("0x") {
            return u64::from_str_radix(hex, 16).ok();
        }
        if let Some(&address) = self.kernel.shared.get(text) {
            return Some(address);
        }
        text.parse::<i64>().map(|v| v as u64).or_else(|_| text.parse()).ok()
    }

    fn special(text: &str) -> Option<Init> {
        Some(match text {
            "%tid.x" => Init::Tid,
            "%ctaid.x" => Init::Block,
            "%nctaid.x" => Init::Blocks,
            "%ntid.x" => Init::Threads,
            _ => return None,
        })
    }

    /// A register of 32 bits (or 16), or a constant.
    fn narrow(&mut self, text: &str) -> Option<Reg> {
        if let Some(init) = Self::special(text) {
            return Some(self.constant32(init));
        }
        if text.starts_with("%rd") || text.starts_with("%p") {
            return None;
        }
        if text.starts_with('%') {
            let next = &mut self.names.next32;
            return Some(*self.names.narrow.entry(text.to_owned()).or_insert_with(|| Self::fresh(next)));
        }
        let bits = self.immediate(text)?;
        Some(self.constant32(Init::Bits(bits & 0xffff_ffff)))
    }

    /// A register of 64 bits, or a constant.
    fn wide(&mut self, text: &str) -> Option<Reg> {
        if text.starts_with("%rd") {
            let next = &mut self.names.next64;
            return Some(*self.names.wide.entry(text.to_owned()).or_insert_with(|| Self::fresh(next)));
        }
        if text.starts_with('%') {
            return None;
        }
        let bits = self.immediate(text)?;
        Some(self.constant64(Init::Bits(bits)))
    }

    fn narrow_list<const N: usize>(&mut self, text: &str) -> Option<[Reg; N]> {
        let inner = text.strip_prefix('{')?.strip_suffix('}')?;
        let regs: Vec<Reg> = inner.split(',').map(|t| self.narrow(t)).collect::<Option<_>>()?;
        regs.try_into().ok()
    }

    fn address(&mut self, text: &str) -> Option<Address> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        let (base, offset) = match inner.split_once('+') {
            Some((base, offset)) => (base, offset.parse().ok()?),
            None => (inner, 0),
        };
        if base.starts_with("%rd") || !base.starts_with('%') {
            return Some(Address { wide: true, base: self.wide(base)?, offset });
        }
        Some(Address { wide: false, base: self.narrow(base)?, offset })
    }

    fn action(&mut self, s: &Statement) -> Option<Do> {
        let name: Vec<&str> = s.name.iter().map(String::as_str).collect();
        let o: Vec<&str> = s.operands.iter().map(String::as_str).collect();
        match (name[0], o.len()) {
            ("ret" | "exit", 0) => Some(Do::Exit),
            ("bra", 1) => self.kernel.labels.get(o[0]).map(|&at| Do::Branch(at)),
            ("bar", 1) => match name[1] {
                "sync" if o[0] == "0" => Some(Do::Barrier),
                "warp" if name[2] == "sync" && o[0] == "0xffffffff" => Some(Do::WarpBarrier),
                _ => None,
            },
            ("membar", 0) if name[1..] == ["gl"] => Some(Do::Fence),
            ("fence", 0) if name[1..] == ["acq_rel", "gpu"] => Some(Do::Fence),
            ("ld" | "st" | "atom", _) => self.memory(&name, &o),
            ("wmma" | "mma", _) => self.tensor(&name, &o),
            ("mov" | "cvta" | "cvt" | "not" | "neg" | "clz" | "rcp", 2) => self.unary(&name, &o),
            ("setp", 3) => self.compare(&name, &o),
            ("selp", 4) => self.select(&name, &o),
            ("shfl", 5) if name[1..] == ["sync", "bfly", "b32"] && o[3..] == ["0x1f", "0xffffffff"] => {
                Some(Do::Shfl(self.narrow(o[0])?, self.narrow(o[1])?, self.narrow(o[2])?))
            }
            ("mad" | "fma" | "dp4a" | "prmt" | "bfe" | "shf", 4) => self.ternary(&name, &o),
            (_, 3) => self.binary(&name, &o),
            _ => None,
        }
    }

    fn memory(&mut self, name: &[&str], o: &[&str]) -> Option<Do> {
        if name == ["ld", "param", "u64"] || name == ["ld", "param", "u32"] || name == ["ld", "param", "f32"] {
            let inner = o[1].strip_prefix('[')?.strip_suffix(']')?;
            let init = Init::Param(*self.offsets.get(inner)?);
            return match name[2] {
                "u64" => Some(Do::Mov64(self.wide(o[0])?, self.constant64(init))),
                _ => Some(Do::Mov32(self.narrow(o[0])?, self.constant32(init))),
            };
        }
        if let ["atom", space @ .., "add", "u32"] = name {
            let space = match space {
                [] => Space::Global,
                ["shared"] => Space::Shared,
                _ => return None,
            };
            return Some(Do::AtomAdd(space, self.narrow(o[0])?, self.address(o[1])?, self.narrow(o[2])?));
        }
        // Nothing else between the name and the type: the read-only cache (`.nc`) above all would not see what this launch has
        // written, so code that needs it is refused instead of run as if it were coherent.
        let (volatile, space) = match name.get(1..name.len().checked_sub(1)?)? {
            ["global"] => (false, Space::Global),
            ["shared"] => (false, Space::Shared),
            ["volatile"] | ["volatile", "global"] => (true, Space::Global),
            ["volatile", "shared"] => (true, Space::Shared),
            _ => return None,
        };
        let (signed, bytes) = match *name.last()? {
            "u8" | "b8" => (false, 1),
            "s8" => (true, 1),
            "u16" | "b16" => (false, 2),
            "s16" => (true, 2),
            "u32" | "b32" | "f32" | "s32" => (false, 4),
            "u64" | "b64" | "s64" => (false, 8),
            _ => return None,
        };
        let cell = Cell { bytes, signed, space, volatile };
        let (value, address) = if name[0] == "ld" { (o[0], o[1]) } else { (o[1], o[0]) };
        // Narrow values may go to wide registers; immediates are stored as wide as memory wants them.
        let wide = value.starts_with("%rd") || (bytes == 8 && !value.starts_with('%'));
        let reg = if wide { self.wide(value)? } else { self.narrow(value)? };
        let address = self.address(address)?;
        Some(if name[0] == "ld" { Do::Load(cell, wide, reg, address) } else { Do::Store(cell, wide, reg, address) })
    }

    fn tensor(&mut self, name: &[&str], o: &[&str]) -> Option<Do> {
        match name {
            ["mma", "sync", "aligned", "m16n8k32", "row", "col", "s32", "s8", "s8", "s32"] => Some(Do::Mma(
                self.narrow_list(o[0])?,
                self.narrow_list(o[1])?,
                self.narrow_list(o[2])?,
                self.narrow_list(o[3])?,
            )),
            ["wmma", "load", which, "sync", "aligned", order, "m16n16k16", rest @ .., "s8"] => {
                match (*which, *order) {
                    ("a", "row") | ("b", "col") => {}
                    _ => return None,
                };
                let space = match rest {
                    ["shared"] => Space::Shared,
                    [] => Space::Global,
                    _ => return None,
                };
                let (address, stride) = (self.address(o[1])?, self.narrow(o[2])?);
                Some(Do::WmmaLoad { space, d: self.narrow_list(o[0])?, address, stride })
            }
            ["wmma", "mma", "sync", "aligned", "row", "col", "m16n16k16", "s32", "s8", "s8", "s32"] => {
                Some(Do::WmmaMma(
                    self.narrow_list(o[0])?,
                    self.narrow_list(o[1])?,
                    self.narrow_list(o[2])?,
                    self.narrow_list(o[3])?,
                ))
            }
            ["wmma", "store", "d", "sync", "aligned", "row", "m16n16k16", "shared", "s32"] => {
                let (address, stride) = (self.address(o[0])?, self.narrow(o[2])?);
                Some(Do::WmmaStore { a: self.narrow_list(o[1])?, address, stride })
            }
            _ => None,
        }
    }
}
