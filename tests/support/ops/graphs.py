"""Dependencies between the operations of a graph."""


def ancestors(operation):
    """Returns all operations that must run before an operation, and the operation itself."""
    found, left = set(), [operation]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += [*one.control_inputs, *(tensor.op for tensor in one.inputs)]
    return found
