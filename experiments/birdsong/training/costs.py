"""The cost that training minimises, and the validation loss.

A batch is a dict of tensors: 'label' (batch,) int64; in training also 'mixed_label', 'pseudo_label' (batch, classes),
'label_bg' (batch, classes) bool, 'weight' (batch,). Outputs are what the network returns: a dict of tensors with
'output' (batch, classes) and, depending on the network, 'logits', 'attention' and 'output_bg'.
"""

from typing import Any

import torch
import torch.nn.functional as F

from birdsong.files import Problem
from birdsong.networks.layers import full_precision

Tensors = dict[str, torch.Tensor]
Settings = dict[str, Any]


def _clipped(predictions, cfg):
    clip = float(cfg['pred_clip'])
    return predictions.clamp(clip, 1 - clip) if clip else predictions


def _categorical(targets, log_predictions):
    # 0 * log 0 would be NaN
    return -torch.where(targets == 0, 0, targets * log_predictions).sum(1)


def _binary(predictions, targets):
    # xlogy and xlog1py are finite if the prediction is exactly 0 or 1 and equal to the target
    return -(torch.xlogy(targets, predictions) + torch.special.xlog1py(1 - targets, -predictions))


def _below_top(predictions, k):
    """1 where a prediction is below the k-th highest of its row, else 0; without gradient."""
    k = min(k, predictions.shape[1])
    threshold = torch.topk(predictions.detach(), k, 1).values[:, -1:]
    return (predictions.detach() < threshold).to(predictions.dtype)


def cost(
    name: str,
    predictions: torch.Tensor,
    targets: torch.Tensor,
    cfg: Settings,
    attention: torch.Tensor | None = None,
    logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """The cost `name` of each example: (batch,), or (batch, classes) for ce and ce_bgtopk:K.

    predictions, targets: (batch, classes); for attention_logsoftmax, predictions are logarithms (batch, classes, time)
    and `attention` (batch, K, time) are the attention maps before the softmax.
    logits: the input of the softmax that computed the predictions, if known; it makes small predictions more accurate.

    Raises Problem if there is no such cost.
    """
    kind, _, number = name.partition(':')
    if kind == 'softmax':
        if logits is not None and not float(cfg['pred_clip']):
            return _categorical(targets, torch.log_softmax(logits, 1))
        return _categorical(targets, torch.log(_clipped(predictions, cfg)))
    if kind == 'logsoftmax':
        return _categorical(targets, predictions)
    if kind == 'attention_logsoftmax':
        weights = torch.softmax(attention, 2).mean(1)
        return (_categorical(targets[:, :, None], predictions) * weights).sum(1)
    if kind == 'ce':
        return _binary(_clipped(predictions, cfg), targets)
    if kind == 'ce_bgtopk':
        mask = torch.maximum(_below_top(predictions, int(float(number))), targets)
        return _binary(_clipped(predictions, cfg), targets) * mask
    raise Problem(f'cost={name}: unknown cost')


def _outputs(outputs, cfg):
    """Predictions for the main cost, and their logits if they are the output of a softmax, else None."""
    predictions = full_precision(outputs['output'])
    kind = cfg['cost']
    if (kind == 'attention_logsoftmax') != (predictions.ndim == 3) and kind != 'none':
        raise Problem(
            f'cost={kind} does not fit arch.pool={cfg["arch.pool"]}: attention_logsoftmax needs attention_nopool, '
            'all others need pooling'
        )
    if cfg['arch.output'] == 'softmax' and 'logits' in outputs:
        return predictions, full_precision(outputs['logits'])
    return predictions, None


def _total(outputs, targets, batch, cfg):
    """Cost of each example: (batch,)."""
    total = targets.new_zeros(len(targets))
    if cfg['cost'] != 'none':
        predictions, logits = _outputs(outputs, cfg)
        main = cost(cfg['cost'], predictions, targets, cfg, outputs.get('attention'), logits)
        total = total + (main if main.ndim == 1 else main.mean(1))
    if cfg['cost_bg'] not in ('', 'none'):
        if 'output_bg' not in outputs:
            raise Problem(f'cost_bg={cfg["cost_bg"]} needs a second output; set arch.output_bg=sigmoid')
        background = full_precision(outputs['output_bg'])
        present = batch['label_bg'].to(background.dtype)
        total = total + cost(cfg['cost_bg'], background, present, {'pred_clip': 0}).mean(1)
    return total


def _one_hot(outputs, batch):
    output = full_precision(outputs['output'])
    return F.one_hot(batch['label'], output.shape[1]).to(output.dtype)


def training_targets(
    outputs: Tensors, batch: Tensors, cfg: Settings, teacher: torch.Tensor | None = None
) -> torch.Tensor:
    """Targets (batch, classes): one-hot or mixed labels.

    If used, the output of the teacher, pseudo-labels, and background labels times the setting mix_fg_bg are added.
    """
    targets = _one_hot(outputs, batch)
    if 'mixed_label' in batch:
        targets = batch['mixed_label'].to(targets.dtype)
    if teacher is not None:
        targets = targets + teacher.to(targets.dtype)
    if 'pseudo_label' in batch:
        targets = targets + batch['pseudo_label'].to(targets.dtype)
    if float(cfg['mix_fg_bg']):
        targets = targets + float(cfg['mix_fg_bg']) * batch['label_bg'].to(targets.dtype)
    return targets


def training_cost(outputs: Tensors, batch: Tensors, cfg: Settings, teacher: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cost of a training batch, a scalar; `teacher`: output of the teacher for this batch (batch, classes)."""
    with torch.autocast(outputs['output'].device.type, enabled=False):
        total = _total(outputs, training_targets(outputs, batch, cfg, teacher), batch, cfg)
        if 'weight' in batch:
            total = total * batch['weight'].to(total.dtype)
        return total.mean()


def validation_cost(outputs: Tensors, batch: Tensors, cfg: Settings) -> torch.Tensor:
    """Mean cost of a validation batch, a scalar; the labels are the only targets."""
    with torch.autocast(outputs['output'].device.type, enabled=False):
        return _total(outputs, _one_hot(outputs, batch), batch, cfg).mean()
