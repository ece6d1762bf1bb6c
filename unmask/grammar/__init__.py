"""What an answer must be: from a regular expression or a JSON schema to an automaton over a model's tokens.

    language    what was asked for, as a value                        language.py
    expression  its syntax: characters, sequences, choices, repeats   expression.py, regex.py, schema.py
    byte DFA    the same over bytes, minimal                          dfa.py
    automaton   the same over tokens, as the tokenizer writes them    text.py, lift.py
    grammar     the automaton at one place of one answer              constraint.py

decode/narrow.py decides with it; nothing here knows a model's network.
"""
