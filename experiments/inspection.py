"""What a network hears in recordings: scores at every frame, plots, and the bins that speak for a class."""
import os
import tempfile

import numpy as np
import torch
from tqdm import tqdm

import audio
import inference
import predictions
from fcn import to_fcn
from files import Problem, read_lines

# columns of a plot; longer recordings are reduced to so many
COLUMNS = 1600
# classes with a curve of their own
TOP = 5


def find_class(text, dataset):
    """Index of a class given by index, class id or Latin name. Raises Problem if there is none."""
    latin = os.path.join(dataset.path, 'labels', 'labelset_latin')
    for names in (dataset.labelset, read_lines(latin) if os.path.exists(latin) else []):
        if text in names:
            return names.index(text)
    if text.isdigit() and int(text) < dataset.num_classes:
        return int(text)
    raise Problem('--saliency %s: neither a class of %s nor an index below %d' % (text, dataset.name, dataset.num_classes))


def class_names(dataset):
    """What to call the classes in a plot: Latin names where there are such."""
    latin = os.path.join(dataset.path, 'labels', 'labelset_latin')
    return read_lines(latin) if os.path.exists(latin) else dataset.labelset


def side_file(out, name):
    return '%s.%s.npz' % (out[:-len('.npz')], name)


class RowFile:
    """Rows of recordings that may not fit into memory: collected in a file without a name, then written as predictions."""

    def __init__(self, filename, width):
        self.filename, self.width, self.files, self.offsets = filename, width, [], [0]
        self.file = tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(filename)))

    def add(self, file, parts):
        """Rows (n, width) of a recording, in parts."""
        rows = 0
        for part in parts:
            self.file.write(np.ascontiguousarray(part, np.float32).tobytes())
            rows += len(part)
        self.files.append(file)
        self.offsets.append(self.offsets[-1] + rows)

    def save(self):
        self.file.flush()
        rows = np.memmap(self.file, np.float32, 'r', shape=(self.offsets[-1], self.width))
        predictions.save(self.filename, self.files, rows, np.array(self.offsets))
        print('wrote %s: %d recordings, %d rows' % (self.filename, len(self.files), self.offsets[-1]))


def full_resolution(args, dataset, feed, net, device):
    """Write class scores at every frame of each recording: row i is what the network says of the excerpt that begins at frame i."""
    converted = to_fcn(net.to(device).eval(), args.window)
    rate = net.cfg['sample_rate'] / audio.hop(net.cfg)
    print('a score every %.1f ms, each of %.2f s%s' % (1e3 * converted.step / rate, converted.window / rate, '; exact from %.2f s away from the ends '
                                                       'of a recording' % (converted.margin / rate) if converted.margin else ''))
    out = RowFile(args.out, dataset.num_classes)
    for i in tqdm(range(len(feed)), 'full resolution', disable=None):
        item = feed.item(i)
        meta = torch.from_numpy(item['meta'])[None].to(device) if 'meta' in item else None
        out.add(item['file'], (scores['output'] for _, scores in converted.recording(item['samples'], meta)))
    out.save()


def explain(predictor, item, index):
    """(scores (rows, classes), guided gradients (frames, bins)) of a recording for a class, block by block without overlap."""
    samples, net = item['samples'], predictor.plain
    meta = torch.from_numpy(item['meta'])[None].to(predictor.device) if 'meta' in item else None
    frames = max(1, audio.num_frames(len(samples), predictor.frame_len, predictor.hop))
    longest = predictor.longest or frames
    scores, gradients = [], []
    for start in range(0, frames, longest):
        spect = torch.from_numpy(np.asarray(predictor.spectrogram(samples, start, min(start + longest, frames))))[None].to(predictor.device)
        outputs, gradient = inference.saliency(net, spect, index, meta)
        output = outputs['output'].cpu().numpy()
        scores.append(output if output.ndim == 2 else output[0].T)
        gradients.append(gradient[0, :min(longest, frames - start)].cpu().numpy())
    return np.concatenate(scores), np.concatenate(gradients)


def listen(predictor, item):
    """Spectrogram (frames, bins), class maps over time (steps, classes) and attention (steps,) or None of a recording,
    reduced to at most COLUMNS columns."""
    samples, net = item['samples'], predictor.plain
    frames = max(1, audio.num_frames(len(samples), predictor.frame_len, predictor.hop))
    longest = predictor.longest or frames
    spects, curves, attentions = [], [], []
    with torch.no_grad():
        for start in range(0, frames, longest):
            spect = np.asarray(predictor.spectrogram(samples, start, min(start + longest, frames)))
            maps = net.maps(torch.from_numpy(spect)[None].to(predictor.device))[0].float()
            share = max(1, COLUMNS * len(spect) // max(frames, COLUMNS))
            spects.append(_reduce(spect, share))
            curves.append(_reduce(maps[:net.classes].amax(2).T.cpu().numpy(), share))
            if len(maps) > net.classes:
                attentions.append(_reduce(maps[net.classes:, :, 0].T.cpu().numpy(), share))
    attention = None
    if attentions:
        logits = np.concatenate(attentions)
        weights = np.exp(logits - logits.max(0))
        attention = (weights / weights.sum(0)).mean(1)
    return np.concatenate(spects), np.concatenate(curves), attention


def _reduce(rows, count):
    """At most `count` rows, each the maximum of those that it stands for."""
    if len(rows) <= count:
        return rows
    return np.maximum.reduceat(rows, np.arange(count) * len(rows) // count)


def plot(predictor, item, names, scores, gradients=None, label=''):
    """A figure of one recording: spectrogram, the classes with the highest scores over time, attention, saliency."""
    import matplotlib.pyplot as plt
    spect, curves, attention = listen(predictor, item)
    seconds = len(item['samples']) / predictor.cfg['sample_rate']
    top = np.argsort(-scores, kind='stable')[:TOP]
    panels = 2 + (attention is not None) + (gradients is not None)
    figure, axes = plt.subplots(panels, 1, sharex=True, figsize=(12, 2.6 * panels), layout='constrained')
    highest = spect.shape[1] * predictor.cfg['sample_rate'] / predictor.frame_len / 1000
    picture = dict(origin='lower', aspect='auto', extent=(0, seconds, 0, highest), interpolation='nearest')
    axes[0].imshow(20 * np.log10(np.maximum(spect, 1)).T, cmap='magma', **picture)
    axes[0].set(title=item['file'], ylabel='kHz')
    middle = (np.arange(len(curves)) + .5) * seconds / len(curves)
    for rank, index in enumerate(top):
        axes[1].plot(middle, curves[:, index], label='%s (%.2f)' % (names[index], scores[index]), linewidth=1 if rank else 2)
    axes[1].set(ylabel='logit', xlim=(0, seconds))
    axes[1].legend(loc='center left', bbox_to_anchor=(1, .5), frameon=False)
    panel = 2
    if attention is not None:
        axes[panel].fill_between(middle, attention * len(attention), step='mid', alpha=.6)
        axes[panel].axhline(1, color='grey', linewidth=.5)
        axes[panel].set(ylabel='attention\n(1: even)', ylim=(0, None))
        panel += 1
    if gradients is not None:
        strength = _reduce(np.abs(gradients), COLUMNS)
        axes[panel].imshow(strength.T, cmap='Greys', vmax=np.quantile(strength, .999) or 1, **picture)
        axes[panel].set(ylabel='saliency, kHz', title=label)
    axes[-1].set(xlabel='seconds')
    return figure


def run(args, cfg, dataset, feed, net, predictor, device):
    """What predict.py does with --full-resolution, --saliency and --plot."""
    if not cfg['arch']:
        raise Problem('%s: knows metadata alone, so there is nothing to see over time; take --full-resolution, --plot and --saliency away' % args.model)
    if args.full_resolution:
        return full_resolution(args, dataset, feed, net, device)
    index = None if args.saliency is None else find_class(args.saliency, dataset)
    names = class_names(dataset)
    if args.plot is not None:
        import matplotlib
        if args.plot:
            matplotlib.use('Agg')
            os.makedirs(args.plot, exist_ok=True)
        elif matplotlib.get_backend().lower() == 'agg':
            raise Problem('--plot: no display here; name a folder to write the plots to: --plot FOLDER')
        import matplotlib.pyplot as plt
    rows = RowFile(args.out, dataset.num_classes)
    salient = RowFile(side_file(args.out, 'saliency'), audio.num_bins(cfg)) if index is not None else None
    for i in tqdm(range(len(feed)), 'look', disable=None):
        item, gradients = feed.item(i), None
        if index is None:
            scores = predictor.predict(item)['output']
        else:
            scores, gradients = explain(predictor, item, index)
            salient.add(item['file'], [gradients])
        rows.add(item['file'], [scores])
        if args.plot is not None:
            label = '' if index is None else 'what speaks for or against %s' % names[index]
            figure = plot(predictor, item, names, scores.max(0), gradients, label)
            if args.plot:
                figure.savefig(os.path.join(args.plot, '%s.%s' % (os.path.splitext(item['file'])[0].replace('/', '_'), args.plot_format)), dpi=110)
            else:
                plt.show()
            plt.close(figure)
    rows.save()
    if salient:
        salient.save()
    if args.plot:
        print('wrote %d plots to %s' % (len(feed), args.plot))
