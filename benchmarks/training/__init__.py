"""Complete training steps of this project and its peers, interleaved, and the machine's limit."""
