"""The cost that training minimises, and the validation loss.

A batch is a dict of tensors: 'label' (batch,) int64 and, with segment_targets, 'active' (batch, classes); in training
also 'mixed_label', 'pseudo_label' (batch, classes), 'label_bg' (batch, classes) bool, 'weight' (batch,). Outputs are
what the network returns: a dict of tensors with 'output' (batch, classes) and, depending on the network, 'logits',
'maps', 'attention' and 'output_bg'.
"""

from typing import Any

import torch
import torch.nn.functional as F

from birdsong.files import Problem
from birdsong.networks.layers import OUTPUT, full_precision

Tensors = dict[str, torch.Tensor]
Settings = dict[str, Any]


# Kinds of costs for outputs between 0 and 1 that are independent of each other, such as those of a sigmoid
BINARY = ('ce', 'ce_bgtopk', 'focal')


def check(cfg: Settings) -> None:
    """Raise Problem for settings of targets and costs that exclude each other."""
    kind, _, number = cfg['cost'].partition(':')
    if kind == 'focal' and float(number) < 0:
        raise Problem(f'cost={cfg["cost"]}: the exponent must be 0 or more')
    if _smooths(cfg):
        given = f'smooth_positives={cfg["smooth_positives"]}, smooth_negatives={cfg["smooth_negatives"]}'
        if kind not in ('ce', 'focal'):
            raise Problem(f'{given}: does not fit cost={cfg["cost"]}; set cost=ce or cost=focal:A, or both to 0')
        if cfg['smooth_positives'] + cfg['smooth_negatives'] >= 1:
            raise Problem(f'{given}: negatives would not be below positives; their sum must be below 1')
        if kind == 'ce' and not cfg['pred_clip']:
            raise Problem(f'{given}: needs pred_clip above 0, or cost=focal:0, which is ce without clipping')
    if cfg['segment_targets'] and (kind not in BINARY or cfg['arch.output'] == 'softmax'):
        raise Problem(
            f'segment_targets=1: an excerpt may have no class or several, which does not fit cost={cfg["cost"]} with '
            f'arch.output={cfg["arch.output"]}; set arch.output=sigmoid and cost=ce, ce_bgtopk:A or focal:A'
        )
    if cfg['frame_cost']:
        if kind in ('none', 'attention_logsoftmax'):
            raise Problem(f'frame_cost={cfg["frame_cost"]}: does not fit cost={cfg["cost"]}; set frame_cost=0')
        if not cfg['arch'] or cfg['arch_meta']:
            raise Problem(f'frame_cost={cfg["frame_cost"]}: needs a network on audio alone (arch, no arch_meta)')


def _smooths(cfg):
    return bool(cfg['smooth_positives'] or cfg['smooth_negatives'])


def _limits_targets(cfg):
    """Whether targets are probabilities. In the costs of 2018, sums of targets may exceed 1."""
    return cfg['cost'].startswith('focal') or _smooths(cfg) or bool(cfg['segment_targets'])


def _clipped(predictions, cfg):
    clip = float(cfg['pred_clip'])
    return predictions.clamp(clip, 1 - clip) if clip else predictions


def _categorical(targets, log_predictions):
    # 0 * log 0 would be NaN
    return -torch.where(targets == 0, 0, targets * log_predictions).sum(1)


def _binary(predictions, targets):
    # xlogy and xlog1py are finite if the prediction is exactly 0 or 1 and equal to the target
    return -(torch.xlogy(targets, predictions) + torch.special.xlog1py(1 - targets, -predictions))


def _focal(predictions, targets, exponent, logits):
    if logits is None:
        entropy = _binary(predictions, targets)
    else:
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction='none')
    # The gradient of a power below 1 is infinite at 0.
    return entropy * (targets - predictions).abs().clamp(min=1e-7) ** exponent


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
    """The cost `name` of each example: (batch,), or (batch, classes) for the kinds in BINARY.

    focal:G is |target - prediction|^G times the binary cross-entropy, for targets from 0 to 1 (Li et al., "Generalized
    focal loss", NeurIPS 2020, eq. 4); for targets of 0 and 1, this is the focal loss of Lin et al., ICCV 2017.

    predictions, targets: (batch, classes); for attention_logsoftmax, predictions are logarithms (batch, classes, time)
    and `attention` (batch, K, time) are the attention maps before the softmax.
    logits: the input of the softmax or, for focal, of the sigmoid that computed the predictions, if known; it makes
    predictions close to 0 or 1 more accurate. With logits, focal does not clip predictions.

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
    if kind == 'focal':
        return _focal(predictions if logits is not None else _clipped(predictions, cfg), targets, float(number), logits)
    raise Problem(f'cost={name}: unknown cost')


def _outputs(outputs, cfg):
    """Predictions for the main cost, and their logits if the cost can use them, else None."""
    predictions = full_precision(outputs['output'])
    kind = cfg['cost']
    if (kind == 'attention_logsoftmax') != (predictions.ndim == 3) and kind != 'none':
        raise Problem(
            f'cost={kind} does not fit arch.pool={cfg["arch.pool"]}: attention_logsoftmax needs attention_nopool, '
            'all others need pooling'
        )
    return predictions, _usable(outputs.get('logits'), cfg)


def _usable(logits, cfg):
    usable = cfg['arch.output'] == ('sigmoid' if cfg['cost'].startswith('focal') else 'softmax')
    return full_precision(logits) if usable and logits is not None else None


def _frame_outputs(outputs, cfg):
    """As `_outputs`, for the maximum over all positions of the maps instead of the pooled value."""
    classes = outputs['output'].shape[1]
    maps = full_precision(outputs['maps'])[:, :classes]
    if str(cfg['arch.pool']).startswith('attention'):
        maps = maps[..., :1]  # as in AttentionPooling
    logits = maps.amax((2, 3))
    return OUTPUT[cfg['arch.output']](logits), _usable(logits, cfg)


def _main(predictions, logits, targets, outputs, cfg):
    """The main cost of each example: (batch,)."""
    found = cost(cfg['cost'], predictions, targets, cfg, outputs.get('attention'), logits)
    return found if found.ndim == 1 else found.mean(1)


def _total(outputs, targets, batch, cfg):
    """Cost of each example: (batch,)."""
    total = targets.new_zeros(len(targets))
    if cfg['cost'] != 'none':
        main, share = _main(*_outputs(outputs, cfg), targets, outputs, cfg), float(cfg['frame_cost'])
        if share:
            main = (1 - share) * main + share * _main(*_frame_outputs(outputs, cfg), targets, outputs, cfg)
        total = total + main
    if cfg['cost_bg'] not in ('', 'none'):
        if 'output_bg' not in outputs:
            raise Problem(f'cost_bg={cfg["cost_bg"]} needs a second output; set arch.output_bg=sigmoid')
        background = full_precision(outputs['output_bg'])
        present = batch['label_bg'].to(background.dtype)
        total = total + cost(cfg['cost_bg'], background, present, {'pred_clip': 0}).mean(1)
    return total


def _labels(outputs, batch):
    output = full_precision(outputs['output'])
    if 'active' in batch:
        return batch['active'].to(output.dtype)
    return F.one_hot(batch['label'], output.shape[1]).to(output.dtype)


def training_targets(
    outputs: Tensors, batch: Tensors, cfg: Settings, teacher: torch.Tensor | None = None
) -> torch.Tensor:
    """Targets (batch, classes): one-hot labels, mixed labels, or classes that are active in the excerpt.

    If used, the output of the teacher, pseudo-labels, and background labels times the setting mix_fg_bg are added.
    With focal costs, label smoothing or segment_targets, targets are probabilities: background labels times mix_fg_bg
    replace smaller targets instead of being added, sums are limited to 1, and then smoothed.
    """
    targets = _labels(outputs, batch)
    if 'mixed_label' in batch:
        targets = batch['mixed_label'].to(targets.dtype)
    if teacher is not None:
        targets = targets + teacher.to(targets.dtype)
    if 'pseudo_label' in batch:
        targets = targets + batch['pseudo_label'].to(targets.dtype)
    limits = _limits_targets(cfg)
    if float(cfg['mix_fg_bg']):
        background = float(cfg['mix_fg_bg']) * batch['label_bg'].to(targets.dtype)
        targets = torch.maximum(targets, background) if limits else targets + background
    if limits:
        targets = targets.clamp(max=1)
    if _smooths(cfg):
        low, high = cfg['smooth_negatives'], 1 - cfg['smooth_positives']
        targets = low + (high - low) * targets
    return targets


def training_cost(outputs: Tensors, batch: Tensors, cfg: Settings, teacher: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cost of a training batch, a scalar; `teacher`: output of the teacher for this batch (batch, classes)."""
    with torch.autocast(outputs['output'].device.type, enabled=False):
        total = _total(outputs, training_targets(outputs, batch, cfg, teacher), batch, cfg)
        if 'weight' in batch:
            total = total * batch['weight'].to(total.dtype)
        return total.mean()


def validation_cost(outputs: Tensors, batch: Tensors, cfg: Settings) -> torch.Tensor:
    """Mean cost of a validation batch, a scalar; the labels are the only targets, without smoothing."""
    with torch.autocast(outputs['output'].device.type, enabled=False):
        return _total(outputs, _labels(outputs, batch), batch, cfg).mean()
