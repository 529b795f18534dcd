"""Learning rate, patience and trials."""

import numpy as np
import pytest

from birdsong import config
from birdsong.files import Problem
from birdsong.training.schedule import Schedule


def schedule(validate=True, **settings):
    return Schedule(dict(config.load(), **{k.replace('__', '.'): v for k, v in settings.items()}), validate)


def play(plan, values, name='valid_loss'):
    """Actions and rates until the schedule ends or values run out."""
    actions = []
    for value in values:
        if plan.finished:
            break
        actions.append((plan.advance({name: value}), round(plan.eta, 12)))
    return actions


def test_the_rate_decays_after_each_given_number_of_epochs():
    plan = schedule(initial_eta=1, eta_decay=0.5, eta_decay_every=2, epochs=5)
    assert [eta for _, eta in play(plan, [1] * 9)] == [1, 0.5, 0.5, 0.25, 0.25]


def test_the_cycle_of_rates_accumulates():
    plan = schedule(initial_eta=1, eta_decay=1, eta_cycle='0.5:4', epochs=4)
    assert [eta for _, eta in play(plan, [1] * 9)] == [0.5, 2, 1, 4]


def test_patience_returns_to_the_best_state_lowers_the_rate_and_ends_after_its_trials():
    plan = schedule(
        initial_eta=1, eta_decay=0.1, eta_decay_every='trial_of_patience', patience=2, trials_of_patience=2, epochs=99
    )
    assert play(plan, [3, 2, 2, 5, 5, 4, 1, 2, 2, 0]) == [
        ('keep', 1),
        ('keep', 1),
        ('keep', 1),
        ('', 1),
        ('back', 0.1),
        ('', 0.1),
        ('keep', 0.1),
        ('', 0.1),
        ('back', 0.01),
    ]
    assert (plan.best, plan.best_epoch) == (1, 6)


def test_the_best_value_survives_a_trial():
    plan = schedule(patience=1, trials_of_patience=3, eta_decay_every='trial_of_patience', epochs=99)
    assert [action for action, _ in play(plan, [1, 2, 1.5, 3, 0])] == ['keep', 'back', 'back', 'back']


def test_for_map_more_is_better():
    plan = schedule(patience=2, patience_criterion='valid_map', epochs=99)
    assert [a for a, _ in play(plan, [0.1, 0.3, 0.2, 0.2, 1], 'valid_map')] == ['keep', 'keep', '', 'back']


def test_the_cosine_falls_from_update_to_update_after_a_linear_warmup():
    plan = schedule(eta_schedule='cosine', initial_eta=0.2, warmup=0.5, epochs=3, epochsize=10, eta_decay=0.1)
    rates = [plan.rate(update) for update in range(30)]
    np.testing.assert_allclose(rates[:5], [0.04, 0.08, 0.12, 0.16, 0.2])
    np.testing.assert_allclose(rates[5:], 0.1 * (1 + np.cos(np.pi * np.arange(25) / 25)))
    assert 0 < rates[-1] < 0.001
    plan.advance({'valid_loss': 1})  # neither epochs nor trials change it
    assert [plan.rate(update) for update in range(30)] == rates


def test_the_warmup_goes_together_with_the_decay():
    plan = schedule(initial_eta=0.3, eta_decay=0.5, warmup=1.5, epochs=3, epochsize=2)
    rates = []
    for epoch in range(3):
        rates += [plan.rate(2 * epoch), plan.rate(2 * epoch + 1)]
        plan.advance({'valid_loss': 1})
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.15, 0.15, 0.075, 0.075])


def test_patience_with_a_cosine_goes_back_but_leaves_the_rate():
    plan = schedule(
        eta_schedule='cosine', initial_eta=1, eta_decay_every='trial_of_patience', patience=1, trials_of_patience=2
    )
    assert play(plan, [1, 2, 3]) == [('keep', 1), ('back', 1), ('back', 1)]


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(eta_schedule='cosine', eta_cycle='0.5:2'), 'eta_cycle=0.5:2: excludes eta_schedule=cosine'),
        (dict(warmup=3, epochs=3), 'warmup=3: must be less than the number of epochs, 3'),
        (dict(average_last=2, patience=3), 'average_last=2: .* patience saves the best one; set save=last'),
        (dict(average_last=2, save='best'), 'average_last=2: .* save=best saves the best one'),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, words):
    with pytest.raises(Problem, match=words):
        schedule(**settings)


def test_a_criterion_that_needs_validation_is_refused_without_validation():
    with pytest.raises(Problem, match='--validate'):
        schedule(validate=False, patience_criterion='valid_map')
    assert schedule(validate=False).criterion == 'train_loss'
