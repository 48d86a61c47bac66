"""What waits for what in a graph."""


def ancestors(operation):
    """Returns all that must run before an operation, itself included."""
    found, left = set(), [operation]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += [*one.control_inputs, *(tensor.op for tensor in one.inputs)]
    return found
