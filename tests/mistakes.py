"""Wrong lines for the blanks in class, as pupils write them: notebook -> name -> the expression.

`right` is the right value. A check must find fault with each, or the value is the right one after
all (of a single object, the best and the worst are the same).
"""

MISTAKES = {
    "01_channels": {
        "g": ["trace.gradients(prompt).mean((1, 2)).abs().numpy()",
              "trace.gradients(prompt).sum((1, 2)).numpy()",
              "trace.gradients(prompt).mean(0).numpy()",
              "trace.gradients('a table').mean((1, 2)).numpy()"],
        "order": ["right[::-1]", "np.sort(g)[::-1]", "np.r_[right[:5], right[:4:-1]]"],
        "light": ["1 - right", "2 * right", "metrics.energy_inside(maps[0], mask)", "right[:9]"],
        "weights": ["logits[:k]", "np.exp(logits[:k])", "np.exp(logits - logits.max())",
                    "np.exp(2 * (logits[:k] - logits[:k].max()))"],
        "weighted": ["(weights * light[:k]).sum()", "light[:k].mean()", "light[:k].max()"],
    },
    "02_effect_of_k": {
        "ious": ["right + [0]", "[1 - iou for iou in right]", "[2.0 for _ in right]"],
        "weight": ["logits.softmax(0)", "logits.cumsum(0)", "right.flip(0)",
                   "logits.softmax(0).flip(0).cumsum(0)"],
        "settled": ["max(like.values())", "C + 1", "list(like)[0]", "list(like)[-1]"],
        "knee": ["max(means.values())", "max(means, key=means.get)", "ks[0]", "ks[-1]"],
    },
    "03_typographic_attacks": {
        "blank": ["scene.image", "typography.put_label(scene.image, 'iPod')",
                  "typography.put_label(scene.image, 'I', ink='white')",
                  "typography.put_label(scene.image, 'a longer word', ink='white')"],
        "shares": ["{kind: typography.probabilities(traces['bare'], names) for kind in traces}",
                   "{kind: {n: t.logit(n) for n in names} for kind, t in traces.items()}",
                   "dict(list(right.items())[:2])"],
        "prompts": ["['an iPod', 'an apple', 'a table']", "['apple', 'iPod', 'table']",
                    "['an apple', 'an iPod']", "['an apple', 'an iPod', 'an apple']"],
        "note": ["traces['a note'].image != traces['bare'].image", "~right", "right & False"],
        "apple": ["scene.objects[0].mask", "~note", "scene.objects[0].mask & note",
                  "scene.objects[0].mask | note"],
        "towards": ["found[..., 0] - found[..., 1]", "found[..., 1]", "found[:, 1] - found[:, 0]"],
    },
    "04_many_objects": {
        "lead": ["wide['gscorecam'] - wide[METHODS[1:]].min(axis=1)", "-right",
                 "wide['gscorecam'] - wide[METHODS].max(axis=1)",
                 "wide['gscorecam'] - wide[METHODS[1:]].max()"],
        "small": ["ours['area'] > ours['area'].median()", "ours['area']", "ours['area'] <= 0"],
        "blob": ["int((wide['center'] < wide['gscorecam']).sum())",
                 "wide['center'] > wide['gscorecam']", "len(wide) + 1"],
        "falls": ["mean['5–6'] - mean['3–4']", "mean['3–4']", "mean.sum(axis=1)"],
        "hits": ["rows.groupby('method')['hit'].sum()[every].rename(title)",
                 "rows.groupby('method')['iou'].mean()[every].rename(title)", "wide.mean()[1:]"],
    },
    "06_can_we_believe_a_map": {
        "example": ["min(examples, key=lambda e: model.trace(e.image).logit(e.prompt))",
                    "max(model.trace(e.image).logit(e.prompt) for e in examples)"],
        "target": ["gs.Target(example.prompt)", "gs.Target(example.prompt, against=others[:1])",
                   "gs.Target(others[0], against=[example.prompt, *others[1:]])", "others"],
        "better": ["dict(zip(tests, ('higher', 'higher', 'higher', 'lower')))",
                   "dict(zip(tests, ('lower', 'higher', 'higher', 'lower')))",
                   "dict(zip(tests, ('more', 'less', 'more', 'less')))", "{'insertion': 'higher'}"],
        "apart": ["ranks['insertion'] - ranks['pointing']",
                  "(ranks['insertion'] - ranks['deletion']).abs()", "ranks['insertion'][:1]"],
        "end": ["network.iloc[:, 0]", "network.iloc[-1]", "network.iloc[:, -2]"],
    },
    "07_looking_for_bias": {
        "shift": ["{kind: -values for kind, values in right.items()}",
                  "{kind: change(asked[0], mine) for kind, mine in kinds.items()}",
                  "{kind: values.mean() for kind, values in right.items()}"],
        "false": ["{n: shift[n, True].mean() for n in asked}",
                  "{n: shift[n, False].sum() for n in asked}", "shift"],
        "own": ["cross.iloc[0]", "right[::-1]", "cross.mean()"],
        "others": ["cross", "cross.where(np.eye(4, dtype=bool))", "cross.where(np.tri(4) > 0)"],
        "beside": ["values", "np.roll(values, values.shape[0] // 2, 0)", "1 - values",
                   "np.roll(values, values.shape[1] // 2, 1) / 2"],
    },
}  # fmt: skip
ALWAYS = ["FILL_ME_IN", "None", "'no'", "-1.5", "[]", "{}", "np.zeros(3)", "np"]
PROBE = """

right, wrong = {name}, [{wrong}]
for text, value in wrong:
    {name} = value()
    if repr({name}) == repr(right):
        continue
    try:
{check}
    except classroom.BlankError as error:
        assert {answer!r} not in str(error), "gives the answer away"
    else:
        raise AssertionError({name!r} + " = " + text + " is called right")
{name} = right
"""


def probe(stem, name, check, answer):
    """Code that puts wrong values into a blank and holds its check to finding fault."""
    texts = ALWAYS + MISTAKES[stem][name]
    wrong = ", ".join(f"({text!r}, lambda: {text})" for text in texts)
    indented = "\n".join(f"        {line}" for line in check.splitlines())
    return PROBE.format(name=name, wrong=wrong, check=indented, answer=answer)
