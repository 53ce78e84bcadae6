//! Instructions that only touch registers.

use super::{Bin, Cmp, Decoder, Do, Ty, ty};

impl Decoder<'_> {
    pub(super) fn unary(&mut self, name: &[&str], o: &[&str]) -> Option<Do> {
        match name {
            ["mov", "pred"] => {
                // Constants of predicates are numbers.
                Some(match o[1] {
                    "0" | "-1" | "1" => {
                        let one = self.narrow(if o[1] == "0" { "0" } else { "1" })?;
                        let zero = self.narrow("0")?;
                        Do::Setp(Cmp::Ne, false, Ty::U32, self.pred(o[0]), one, zero)
                    }
                    other => Do::PredMov(self.pred(o[0]), self.pred(other)),
                })
            }
            ["mov", "u64" | "b64"] | ["cvta", .., "u64"] => Some(Do::Mov64(self.wide(o[0])?, self.wide(o[1])?)),
            ["mov", "u32" | "b32" | "f32" | "u16" | "s32" | "b16"] => {
                Some(Do::Mov32(self.narrow(o[0])?, self.narrow(o[1])?))
            }
            ["neg", "s32"] => {
                let zero = self.narrow("0")?;
                Some(Do::Bin32(Bin::Sub, self.narrow(o[0])?, zero, self.narrow(o[1])?))
            }
            // All bits turned over.
            ["not", "b32"] => {
                let ones = self.narrow("0xffffffff")?;
                Some(Do::Bin32(Bin::Xor, self.narrow(o[0])?, self.narrow(o[1])?, ones))
            }
            ["not", "b64"] => {
                let ones = self.wide("0xffffffffffffffff")?;
                Some(Do::Bin64(Bin::Xor, self.wide(o[0])?, self.wide(o[1])?, ones))
            }
            ["not", "pred"] => Some(Do::PredNot(self.pred(o[0]), self.pred(o[1]))),
            ["clz", "b64"] => Some(Do::Clz64(self.narrow(o[0])?, self.wide(o[1])?)),
            ["rcp", "rn", "f32"] => Some(Do::Rcp(self.narrow(o[0])?, self.narrow(o[1])?)),
            ["cvt", rounding @ .., to, from] => {
                let (to, from) = (ty(to)?, ty(from)?);
                let right = match (to, from) {
                    (Ty::F32, _) => rounding == ["rn"],
                    (_, Ty::F32) => rounding == ["rzi"],
                    _ => rounding.is_empty(),
                };
                let wide = |t| matches!(t, Ty::U64 | Ty::S64);
                let d = if wide(to) { self.wide(o[0])? } else { self.narrow(o[0])? };
                let a = if wide(from) { self.wide(o[1])? } else { self.narrow(o[1])? };
                right.then_some(Do::Cvt(to, from, d, a))
            }
            _ => None,
        }
    }

    pub(super) fn compare(&mut self, name: &[&str], o: &[&str]) -> Option<Do> {
        let ["setp", cmp, kind] = name else { return None };
        let p = self.pred(o[0]);
        if *kind == "pred" {
            return Some(Do::SetpPred(*cmp == "ne", p, self.pred(o[1]), self.pred(o[2])));
        }
        let kind = ty(kind)?;
        let (cmp, unordered) = match *cmp {
            "eq" => (Cmp::Eq, false),
            "ne" => (Cmp::Ne, false),
            "lt" | "lo" => (Cmp::Lt, false),
            "le" | "ls" => (Cmp::Le, false),
            "gt" | "hi" => (Cmp::Gt, false),
            "ge" | "hs" => (Cmp::Ge, false),
            "neu" => (Cmp::Ne, true),
            "equ" => (Cmp::Eq, true),
            "ltu" => (Cmp::Lt, true),
            "leu" => (Cmp::Le, true),
            "gtu" => (Cmp::Gt, true),
            "geu" => (Cmp::Ge, true),
            // Whether one is no number: never equal to itself.
            "nan" if o[1] == o[2] => (Cmp::Ne, true),
            "num" if o[1] == o[2] => (Cmp::Eq, false),
            _ => return None,
        };
        let wide = matches!(kind, Ty::U64 | Ty::S64);
        let mut reg = |text| if wide { self.wide(text) } else { self.narrow(text) };
        let (a, b) = (reg(o[1])?, reg(o[2])?);
        Some(Do::Setp(cmp, unordered, kind, p, a, b))
    }

    pub(super) fn select(&mut self, name: &[&str], o: &[&str]) -> Option<Do> {
        let p = self.pred(o[3]);
        match ty(name.get(1)?)? {
            Ty::U64 | Ty::S64 => Some(Do::Selp64(self.wide(o[0])?, self.wide(o[1])?, self.wide(o[2])?, p)),
            _ => Some(Do::Selp32(self.narrow(o[0])?, self.narrow(o[1])?, self.narrow(o[2])?, p)),
        }
    }

    pub(super) fn ternary(&mut self, name: &[&str], o: &[&str]) -> Option<Do> {
        let [d, a, b, c] = [self.narrow(o[0])?, self.narrow(o[1])?, self.narrow(o[2])?, self.narrow(o[3])?];
        match name {
            ["mad", "lo", "s32" | "u32"] => Some(Do::Mad(d, a, b, c)),
            ["fma", "rn", "f32"] => Some(Do::Fma(d, a, b, c)),
            ["dp4a", "s32", "s32"] => Some(Do::Dp4a(d, a, b, c)),
            ["prmt", "b32"] => Some(Do::Prmt(d, a, b, c)),
            ["bfe", "u32"] => Some(Do::Bfe(false, d, a, b, c)),
            ["bfe", "s32"] => Some(Do::Bfe(true, d, a, b, c)),
            ["shf", "r", "wrap", "b32"] => Some(Do::ShfR(d, a, b, c)),
            _ => None,
        }
    }

    pub(super) fn binary(&mut self, name: &[&str], o: &[&str]) -> Option<Do> {
        let kind = *name.last()?;
        if let ["mul", "wide", kind] = name {
            let signed = kind.starts_with('s');
            return match *kind {
                "u32" | "s32" => Some(Do::MulWide(signed, self.wide(o[0])?, self.narrow(o[1])?, self.narrow(o[2])?)),
                "u16" | "s16" => {
                    Some(Do::MulWide16(signed, self.narrow(o[0])?, self.narrow(o[1])?, self.narrow(o[2])?))
                }
                _ => None,
            };
        }
        let signed = kind.starts_with('s');
        let f = match (name[0], kind) {
            ("add", "f32") if name[1] == "rn" => Bin::FAdd,
            ("sub", "f32") if name[1] == "rn" => Bin::FSub,
            ("mul", "f32") if name[1] == "rn" => Bin::FMul,
            ("div", "f32") if name[1] == "rn" => Bin::FDiv,
            ("max", "f32") => Bin::FMax,
            ("min", "f32") => Bin::FMin,
            (_, "f32") => return None,
            ("add", _) => Bin::Add,
            ("sub", _) => Bin::Sub,
            ("mul", _) if name[1] == "lo" => Bin::Mul,
            ("and", _) => Bin::And,
            ("or", _) => Bin::Or,
            ("xor", _) => Bin::Xor,
            ("shl", _) => Bin::Shl,
            ("shr", _) => [Bin::ShrU, Bin::ShrS][usize::from(signed)],
            ("min", _) => [Bin::MinU, Bin::MinS][usize::from(signed)],
            ("max", _) => [Bin::MaxU, Bin::MaxS][usize::from(signed)],
            ("div", "u32") => Bin::DivU,
            ("rem", "u32") => Bin::RemU,
            _ => return None,
        };
        if kind == "pred" {
            return Some(Do::PredBin(f, self.pred(o[0]), self.pred(o[1]), self.pred(o[2])));
        }
        let shift = matches!(f, Bin::Shl | Bin::ShrU | Bin::ShrS);
        Some(match ty(kind)? {
            Ty::U64 | Ty::S64 if shift => Do::Shift64(f, self.wide(o[0])?, self.wide(o[1])?, self.narrow(o[2])?),
            Ty::U64 | Ty::S64 => Do::Bin64(f, self.wide(o[0])?, self.wide(o[1])?, self.wide(o[2])?),
            Ty::U16 | Ty::S16 => Do::Bin16(f, signed, self.narrow(o[0])?, self.narrow(o[1])?, self.narrow(o[2])?),
            _ => Do::Bin32(f, self.narrow(o[0])?, self.narrow(o[1])?, self.narrow(o[2])?),
        })
    }
}
