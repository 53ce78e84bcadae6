//! PTX text to kernels: declarations and statements, operands still as text. [`crate::decode`] does the rest.

use std::collections::HashMap;

use crate::Error;

/// A kernel in pieces.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// Byte sizes of the parameters and their names, in order.
    pub(crate) params: Vec<(String, usize)>,
    /// Address of each shared variable.
    pub(crate) shared: HashMap<String, u64>,
    pub(crate) shared_len: usize,
    /// Most threads of a block, where the kernel says so.
    pub(crate) max_threads: Option<u32>,
    pub(crate) statements: Vec<Statement>,
    /// Statement numbers of labels.
    pub(crate) labels: HashMap<String, u32>,
}

/// One instruction.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) line: u32,
    /// Register and whether it is negated.
    pub(crate) guard: Option<(String, bool)>,
    /// Mnemonic, cut at the dots.
    pub(crate) name: Vec<String>,
    pub(crate) operands: Vec<String>,
}

/// The kernels of a module and its `.target` and `.version`.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) target: u32,
    pub(crate) kernels: Vec<Kernel>,
}

pub(crate) fn parse(text: &str) -> Result<Module, Error> {
    let mut module = Module { target: 0, kernels: Vec::new() };
    let (mut shared, mut shared_len) = (HashMap::new(), 0);
    let mut lines = text.lines().enumerate().map(|(n, l)| (n as u32 + 1, l.split("//").next().unwrap_or("").trim()));
    while let Some((number, line)) = lines.next() {
        if let Some(rest) = line.strip_prefix(".target sm_") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            module.target = digits.parse().map_err(|_| Error::syntax(number, "no architecture"))?;
        } else if line.starts_with(".shared") {
            declare_shared(number, line, &mut shared, &mut shared_len)?;
        } else if let Some(rest) = line.strip_prefix(".visible .entry ") {
            let name = rest.trim_end_matches('(').trim().to_owned();
            let mut kernel = Kernel {
                name,
                params: Vec::new(),
                shared: shared.clone(),
                shared_len,
                max_threads: None,
                statements: Vec::new(),
                labels: HashMap::new(),
            };
            parse_kernel(&mut lines, &mut kernel)?;
            module.kernels.push(kernel);
        }
    }
    if module.target == 0 || module.kernels.is_empty() {
        return Err(Error::syntax(1, "no target or no kernel"));
    }
    Ok(module)
}

fn parse_kernel<'t>(lines: &mut impl Iterator<Item = (u32, &'t str)>, kernel: &mut Kernel) -> Result<(), Error> {
    for (number, line) in lines {
        if line.is_empty() || line.starts_with([')', '{']) || line.starts_with(".reg") || line.starts_with(".pragma") {
            continue;
        }
        if line == "}" {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix(".param ") {
            let (kind, name) = rest.split_once(' ').ok_or(Error::syntax(number, "parameter"))?;
            let size = match kind {
                ".u64" => 8,
                ".u32" | ".f32" => 4,
                _ => return Err(Error::syntax(number, "type of a parameter")),
            };
            kernel.params.push((name.trim_end_matches(',').to_owned(), size));
        } else if let Some(rest) = line.strip_prefix(".maxntid ") {
            kernel.max_threads = rest.split(',').next().and_then(|n| n.trim().parse().ok());
        } else if line.starts_with(".shared") {
            let mut len = kernel.shared_len;
            declare_shared(number, line, &mut kernel.shared, &mut len)?;
            kernel.shared_len = len;
        } else if let Some(label) = line.strip_suffix(':') {
            kernel.labels.insert(label.to_owned(), kernel.statements.len() as u32);
        } else {
            kernel.statements.push(statement(number, line)?);
        }
    }
    Err(Error::syntax(0, "a kernel does not end"))
}

/// `.shared .align 8 .b8 name[64];` or `.shared .align 4 .u32 name;`
fn declare_shared(
    number: u32,
    line: &str,
    shared: &mut HashMap<String, u64>,
    shared_len: &mut usize,
) -> Result<(), Error> {
    let bad = || Error::syntax(number, "shared variable");
    let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
    let [".shared", ".align", align, kind, name] = words[..] else { return Err(bad()) };
    let (align, unit): (usize, usize) = (align.parse().map_err(|_| bad())?, kind[2..].parse().map_err(|_| bad())?);
    let (name, count) = match name.split_once('[') {
        Some((name, count)) => (name, count.trim_end_matches(']').parse().map_err(|_| bad())?),
        None => (name, 1),
    };
    let at = shared_len.next_multiple_of(align.max(1));
    *shared_len = at + count * unit / 8;
    shared.insert(name.to_owned(), at as u64);
    Ok(())
}

fn statement(line: u32, text: &str) -> Result<Statement, Error> {
    let text = text.strip_suffix(';').ok_or(Error::syntax(line, "no semicolon"))?;
    let (guard, text) = match text.strip_prefix('@') {
        Some(rest) => {
            let (guard, rest) = rest.split_once(char::is_whitespace).ok_or(Error::syntax(line, "guard"))?;
            let (name, negated) = guard.strip_prefix('!').map_or((guard, false), |name| (name, true));
            (Some((name.to_owned(), negated)), rest.trim())
        }
        None => (None, text),
    };
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    Ok(Statement { line, guard, name: name.split('.').map(str::to_owned).collect(), operands: operands(rest) })
}

/// Operands between commas; braces hold several.
fn operands(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut depth = 0;
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = all.last_mut() {
            last.push(c);
        }
    }
    all.retain(|o| !o.is_empty());
    all
}
