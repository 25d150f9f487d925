"""What photo-lite is taught: names, the ImageNet classes they cover, and sentences around them."""

# COCO's names and everyday words, with the ImageNet classes each of them covers. COCO's names that
# are missing (person, giraffe, fork, ...) have no class, and the model does not know them.
COVERS = {
    "bicycle": "444 671", "bike": "444 671", "car": "407 436 468 511 609 627 656 661 751 817",
    "motorcycle": "665 670", "airplane": "404 895", "plane": "404 895", "aircraft": "404 405 895",
    "bus": "654 779 874", "train": "466 547 565 705 820", "truck": "555 569 675 717 864 867",
    "boat": "472 484 554 576 625 814 871 914", "ship": "403 510 628 724 780",
    "traffic light": "920", "stop sign": "919", "parking meter": "704", "bench": "703",
    "bird": "7-24 80-100 127-146", "cat": "281-285", "kitten": "281-285", "dog": "151-268",
    "puppy": "151-268", "horse": "339", "sheep": "348 349", "cow": "345", "ox": "345",
    "elephant": "101 385 386", "bear": "294-297", "zebra": "340", "backpack": "414",
    "umbrella": "879", "handbag": "636 748", "bag": "414 636 728 748", "tie": "457 906",
    "skis": "795", "tennis racket": "752", "sports ball": "430 574 722 768 805 852 890",
    "ball": "429 430 522 574 722 768 805 852 890", "bottle": "440 720 737 898 907",
    "wine glass": "572", "cup": "504 968", "mug": "504", "knife": "499 623", "spoon": "618 910",
    "bowl": "659 809", "banana": "954", "apple": "948", "orange": "950", "broccoli": "937",
    "hot dog": "934", "pizza": "963", "sandwich": "933", "hamburger": "933",
    "chair": "423 559 765 857", "couch": "831", "sofa": "831", "potted plant": "738",
    "bed": "564", "dining table": "532", "table": "526 532 736", "toilet": "861", "tv": "851",
    "laptop": "620 681", "computer": "527 590 620 681", "mouse": "673", "remote": "761",
    "keyboard": "508 878", "cell phone": "487", "phone": "487 528 707",
    "telephone": "487 528 707", "microwave": "651", "oven": "827", "toaster": "859",
    "sink": "896", "refrigerator": "760", "fridge": "760", "book": "917 921",
    "clock": "409 530 892", "watch": "531", "vase": "883", "teddy bear": "850",
    "hair drier": "589", "animal": "0-397", "mammal": "101-106 147-299 330-388",
    "reptile": "33-68", "fish": "0-6 389-397", "shark": "2-4", "ray": "5 6", "snake": "52-68",
    "lizard": "38-48", "frog": "30-32", "turtle": "33-37", "crocodile": "49 50",
    "spider": "72-77", "crab": "118-121", "lobster": "122 123", "snail": "113",
    "insect": "300-326", "beetle": "300-307", "butterfly": "321-326", "dragonfly": "319",
    "monkey": "370-382", "ape": "365-369", "wolf": "269-272", "fox": "277-280",
    "rabbit": "330-332", "hare": "331", "squirrel": "335", "big cat": "286-293",
    "antelope": "351-353", "whale": "147 148", "pig": "341", "duck": "97 98", "goose": "99",
    "parrot": "87-90", "owl": "24", "eagle": "22", "chicken": "7 8", "rooster": "7",
    "swan": "100", "camel": "354", "goat": "350",
    "fruit": "948-957", "vegetable": "935-947", "food": "924-935 959 962-965",
    "bread": "930-932", "drink": "966 967 969", "coffee": "967", "wine": "907 966",
    "mushroom": "947 991-997", "flower": "985 986", "mountain": "970 980",
    "vehicle": "407 436 444 466 468 511 555 569 609 654 656 665 670 671 675 717 751 779 817 864",
    "furniture": "423 453 493 495 526 532 553 559 564 736 765 831 846 894", "lamp": "619 846",
    "musical instrument": "401 402 420 432 486 513 541 546 558 566 579 593 594 683 776 875 881 889",
    "guitar": "402 546", "piano": "579 881", "drum": "541", "hat": "439 452 515 808",
    "helmet": "518 560", "shoe": "502 514 630 770 774", "boot": "514", "coat": "568 617 869",
    "dress": "578 601", "skirt": "601 655 689 775", "shirt": "610", "glasses": "836 837",
    "camera": "732 759", "box": "478 492 519", "fence": "489 716 912", "gun": "413 763 764",
    "bridge": "821 839 888", "tower": "437 442 900", "house": "425 660 853", "rocket": "657 744",
    "building": "425 449 497 498 580 624 663 668 698 727 762 832", "spacecraft": "812",
    "ice cream": "928", "screen": "664 782", "monitor": "664 782", "pen": "418 563",
}  # fmt: skip
# Taught, but not listed as known: the mean of so many classes tells photos poorly apart.
TOO_BROAD = {"animal", "mammal"}
# Names whose everyday sense is another thing than the class; never taught.
HOMONYMS = {"kite", "ear", "spike", "capitulum", "hip", "rule", "stinger", "pole", "bonnet",
            "drake", "tup", "projectile", "coach", "carriage", "chest", "stage", "sax"}  # fmt: skip
TEMPLATES = [
    "{x}", "{a}", "{a}", "the {x}", "{s}", "a photo of {a}", "a picture of {a}", "this is {a}",
    "an image of the {x}", "a photo of the {x}", "a photo of {s}", "a photo of many {s}",
    "a close-up photo of {a}", "a photo of the large {x}", "a photo of the small {x}", "one {x}",
    "a blurry photo of {a}", "a bright photo of the {x}", "a dark photo of {a}", "my {x}",
    "{a} in the picture", "{a} on a table", "there is {a} in the scene", "some {s}", "two {s}",
    "a good photo of {a}", "a red {x}", "a black {x}", "a white {x}", "a blue {x}", "a green {x}",
    "a yellow {x}", "a brown {x}", "a big {x}", "a small {x}", "an old {x}", "a new {x}",
]  # fmt: skip
HELD_OUT_TEMPLATES = [
    "a cropped photo of {a}.", "a bad photo of the {x}.", "itap of my {x}", "a snapshot of {a}",
    "a photograph showing {s}", "here we see the {x}",
]  # fmt: skip
