"""Methods of one paper each that bring more than a network: its heads, losses and what happens before an epoch, in
paper order, a file a paper."""
