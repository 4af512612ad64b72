"""Which transport? From what somebody needs and what this machine was measured to do.

    needs       Needs: what is asked for; the words of `naru choose --needs`           (pure)
    profile     Profile: what was measured, and the strict reader of its file
    prediction  what a transport will take for these needs: between measured sizes     (pure)
    policy      (needs, profile, capabilities) -> Choice, with every reason            (pure)
    textbook    the fixed rule of size and frequency, for comparison                   (pure)
    front       naru.choose(...): brings the three together

The chain: `front.choose` -> `policy.choose` -> `prediction.predict`. A profile is made by
`naru.bench.probe`, which is of a higher layer: nothing here measures anything.
The function is `naru.choose`, so the package cannot have that name: importing a submodule would put
the package in the function's place.
"""
