//! A router's score: `fc . [largest logits ; relu(hidden . feature / |feature|)]`.

use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::head::{Affine, gemm_parts, transposed};
use super::{Call, Lifter, shape};
use crate::onnx::value::{Score, Seen, Value};

/// Operators on the pieces of a router.
pub(super) fn apply(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    match call.value(0) {
        Some(Value::Score(score)) => on_score(lifter, call, score),
        Some(Value::Seen(_)) => last_layer(call),
        Some(Value::Top(top)) => match shape::rearranged(lifter, call, &top.shape)? {
            Some(shape) => {
                shape::check_vector(&shape, top.k)?;
                let top = crate::onnx::value::Top { shape, ..top.clone() };
                Ok(Some(Value::Top(top)))
            }
            None => joined(call),
        },
        Some(Value::Hidden(hidden)) => match call.op() {
            "Identity" | "Dropout" => Ok(Some(Value::Hidden(Rc::clone(hidden)))),
            "Gemm" | "MatMul" => bail!(
                "two linear layers with a ReLU in between stand behind the pooling; a classifier is one linear layer"
            ),
            _ => joined(call),
        },
        _ => Ok(None),
    }
}

/// Largest logits and hidden layer side by side.
fn joined(call: &Call<'_>) -> Result<Option<Value>> {
    if call.op() != "Concat" {
        return Ok(None);
    }
    Ok(match (call.value(0), call.value(1), call.values.len()) {
        (Some(Value::Top(top)), Some(Value::Hidden(hidden)), 2) => {
            Some(Value::Seen(Seen { top: top.clone(), hidden: Rc::clone(hidden), hidden_first: false }))
        }
        (Some(Value::Hidden(hidden)), Some(Value::Top(top)), 2) => {
            Some(Value::Seen(Seen { top: top.clone(), hidden: Rc::clone(hidden), hidden_first: true }))
        }
        _ => bail!("a router of RIDE's kind joins the largest logits and one hidden layer, nothing else"),
    })
}

/// The layer with one output; `None` if the node is none.
pub(super) fn last_layer(call: &Call<'_>) -> Result<Option<Value>> {
    let Some(Value::Seen(seen)) = call.value(0) else { return Ok(None) };
    let Affine { weight, outputs, inputs, bias } = match call.op() {
        "Gemm" => gemm_parts(call)?,
        "MatMul" => {
            let weight = call.weight(1)?;
            let [rows, columns] = weight.shape[..] else { bail!("its weight has the shape {:?}", weight.shape) };
            Affine { weight: transposed(&weight.to_f64(), rows, columns), outputs: columns, inputs: rows, bias: None }
        }
        _ => return Ok(None),
    };
    let (k, hidden) = (seen.top.k, seen.hidden.outputs());
    ensure!(
        outputs == 1 && inputs == k + hidden,
        "it has {inputs} inputs and {outputs} outputs, a router's last layer has {} and 1",
        k + hidden
    );
    let bias = bias.map_or(Some(0.0), |bias| bias.first().copied()).context("its bias is empty")?;
    let weight = match seen.hidden_first {
        true => [&weight[hidden..], &weight[..hidden]].concat(),
        false => weight,
    };
    Ok(Some(Value::Score(Rc::new(Score { seen: seen.clone(), weight, bias, shape: vec![1, 1] }))))
}

/// A score may be reshaped, get its bias, and pass through a sigmoid, which leaves the decision `> 0` as `> 0.5`.
fn on_score(lifter: &Lifter<'_>, call: &Call<'_>, score: &Rc<Score>) -> Result<Option<Value>> {
    if let Some(shape) = shape::rearranged(lifter, call, &score.shape)? {
        shape::check_vector(&shape, 1)?;
        return Ok(Some(Value::Score(Rc::new(Score { shape, ..(**score).clone() }))));
    }
    match (call.op(), call.pair()) {
        ("Add", Some((tensor, _))) => {
            let bias = score.bias + tensor.scalar().context("its bias is no number")?;
            Ok(Some(Value::Score(Rc::new(Score { bias, ..(**score).clone() }))))
        }
        ("Sigmoid", _) => Ok(Some(Value::Score(Rc::clone(score)))),
        _ => Ok(None),
    }
}
