"""The people, things and letters that problems are about."""

NAMES = ("Ana", "Ben", "Carl", "Dora", "Eva", "Finn", "Hugo", "Iris", "Leo", "Lily", "Max", "Mia", "Noah", "Sam", "Tom", "Zoe")
ITEMS = ("apples", "books", "cards", "coins", "cups", "eggs", "hats", "keys", "pens", "shells", "stamps", "toys")
COLOURS = ("black", "blue", "green", "grey", "pink", "red", "white", "yellow")
LETTERS = tuple("abcdefgh")
