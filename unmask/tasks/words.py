"""The names, things, colours and letters in problems."""

NAMES = ("Ana", "Ben", "Carl", "Dora", "Eva", "Finn", "Hugo", "Iris", "Leo", "Lily", "Max", "Mia", "Noah", "Sam", "Tom", "Zoe")
ITEMS = ("apples", "books", "cards", "coins", "cups", "eggs", "hats", "keys", "pens", "shells", "stamps", "toys")
COLOURS = ("black", "blue", "green", "grey", "pink", "red", "white", "yellow")
LETTERS = tuple("abcdefgh")
